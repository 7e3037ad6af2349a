//! The provider's figures.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

macro_rules! metrics {
    ($($(#[doc = $help:literal])* $name:ident: $kind:ty,)*) => {
        /// The provider's figures; cheap to clone.
        #[derive(Debug, Clone, Default)]
        pub struct ProviderMetrics { $($(#[doc = $help])* pub $name: $kind,)* }

        impl ProviderMetrics {
            /// Adds every figure to a registry, under the prefix `provider`.
            pub fn register(&self, registry: &mut Registry) {
                let registry = registry.sub_registry_with_prefix("provider");
                $(registry.register(stringify!($name), concat!($($help),*), self.$name.clone());)*
            }
        }
    };
}

metrics! {
    /// Jobs running or waiting for their turn.
    jobs_open: Gauge,
    /// Jobs that both sides signed.
    jobs_complete: Counter,
    /// Jobs that ended without both signatures.
    jobs_aborted: Counter,
    /// Jobs that were refused.
    jobs_refused: Counter,
    /// Prompt tokens metered.
    tokens_in: Counter,
    /// Output tokens metered.
    tokens_out: Counter,
    /// Vouchers accepted.
    vouchers: Counter,
    /// Vouchers refused.
    vouchers_refused: Counter,
    /// Pair roots signed.
    pair_roots: Counter,
    /// Vouchers that were handed over to be redeemed.
    redeems: Counter,
}
