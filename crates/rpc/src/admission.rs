//! Who may ask over HTTP: the `Host` header against DNS rebinding, and a browser's `Origin` on WebSocket upgrades, which
//! CORS does not cover.

use crate::metrics::RpcMetrics;
use http::header::{HOST, ORIGIN, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;

/// Names that may be asked for and origins that may ask.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionLayer {
    rules: Arc<Rules>,
    metrics: RpcMetrics,
}

#[derive(Debug)]
struct Rules {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl AdmissionLayer {
    pub(crate) fn new(hosts: Vec<String>, origins: Vec<String>, metrics: RpcMetrics) -> Self {
        Self { rules: Arc::new(Rules { hosts, origins }), metrics }
    }
}

impl<S> tower::Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, rules: self.rules.clone(), metrics: self.metrics.clone() }
    }
}

/// See [`AdmissionLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Admission<S> {
    inner: S,
    rules: Arc<Rules>,
    metrics: RpcMetrics,
}

impl Rules {
    /// An IP address is always allowed: it cannot be rebound. So is a request without the header (HTTP/1.0).
    fn allows_host(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let named = headers.get(HOST).and_then(|value| value.to_str().ok());
        let Some(host) = named.or_else(|| uri.authority().map(http::uri::Authority::as_str)) else { return true };
        let name = without_port(host);
        is_address(name) || listed(&self.hosts, name)
    }

    /// Outside a browser there is no origin.
    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        if !headers.contains_key(UPGRADE) {
            return true;
        }
        let origin = headers.get(ORIGIN).map(|value| value.to_str().unwrap_or_default());
        origin.is_none_or(|origin| listed(&self.origins, origin))
    }
}

fn listed(list: &[String], name: &str) -> bool {
    list.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    if let Some(end) = host.find(']') {
        return host.get(..=end).unwrap_or(host);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn is_address(name: &str) -> bool {
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

impl<S, B, R> Service<Request<B>> for Admission<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<&'static str>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = futures::future::Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let refusal = if !self.rules.allows_host(request.headers(), request.uri()) {
            "invalid host specified\n"
        } else if !self.rules.allows_origin(request.headers()) {
            "origin not allowed\n"
        } else {
            return futures::future::Either::Left(self.inner.call(request));
        };
        self.metrics.refused_hosts.inc();
        let mut response = Response::new(R::from(refusal));
        *response.status_mut() = StatusCode::FORBIDDEN;
        futures::future::Either::Right(ready(Ok(response)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules { hosts: vec!["localhost".into()], origins: vec!["https://wallet.example".into()] }
    }

    fn host_allowed(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        rules().allows_host(&headers, &Uri::from_static("/"))
    }

    // row: CHN-43
    #[test]
    fn addresses_and_listed_names_are_hosts_and_nothing_else_is() {
        for good in ["localhost", "localhost:8545", "LOCALHOST:1", "127.0.0.1:8545", "[::1]:8545", "10.0.0.7"] {
            assert!(host_allowed(good), "{good}");
        }
        for bad in ["evil.example", "evil.example:8545", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!host_allowed(bad), "{bad}");
        }
        let any = Rules { hosts: vec!["*".into()], origins: vec![] };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "evil.example".parse().unwrap());
        assert!(any.allows_host(&headers, &Uri::from_static("/")));
    }

    // row: CHN-43
    #[test]
    fn a_browser_opens_a_websocket_only_from_a_listed_origin() {
        let allowed = |origin: Option<&str>, upgrade: bool| {
            let mut headers = HeaderMap::new();
            if upgrade {
                headers.insert(UPGRADE, "websocket".parse().unwrap());
            }
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            rules().allows_origin(&headers)
        };
        assert!(allowed(None, true));
        assert!(allowed(Some("https://wallet.example"), true));
        assert!(!allowed(Some("https://evil.example"), true));
        assert!(allowed(Some("https://evil.example"), false));
    }
}
