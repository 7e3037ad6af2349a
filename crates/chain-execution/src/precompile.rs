//! The precompiled contracts of the chain.

use alloy_evm::precompiles::PrecompilesMap;
use revm::precompile::{PrecompileSpecId, Precompiles};
use revm::primitives::hardfork::SpecId;

/// The precompiled contracts of a fork. The one place where the chain's own ones are added to Ethereum's.
#[must_use]
pub fn precompiles(spec: SpecId) -> PrecompilesMap {
    PrecompilesMap::from_static(Precompiles::new(PrecompileSpecId::from_spec_id(spec)))
}
