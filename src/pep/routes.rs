//! The configured routes of a proxy listener: which service a request is for.

use std::sync::Arc;

use crate::core::policy::{CanonicalPath, PathPattern, RouteRules, ServiceRef};

/// One configured route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The host, without port, in any case; `None`: any.
    pub host: Option<Arc<str>>,
    /// The path template; `None`: any.
    pub path: Option<PathPattern>,
    /// Methods; empty: any.
    pub methods: Vec<Arc<str>>,
    /// What it protects; `None` on an anonymous route.
    pub service: Option<ServiceRef>,
    /// How it is judged, and where it goes.
    pub rules: Arc<RouteRules>,
}

/// Routes in order; the first match counts.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Takes routes in the order in which they are written.
    pub fn new(mut routes: Vec<Route>) -> Self {
        for route in &mut routes {
            route.host = route.host.take().map(|host| Arc::from(host.to_ascii_lowercase()));
        }
        Self(routes)
    }

    /// The upstreams that routes name.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|route| &route.rules.upstream)
    }

    /// Whether some route takes signed proofs of possession.
    pub(crate) fn take_proofs(&self) -> bool {
        self.0.iter().any(|route| route.rules.public_origin.is_some())
    }

    /// The first route for a host in lower case without port, a method and a path.
    pub(crate) fn find(&self, host: &str, method: &str, path: &CanonicalPath) -> Option<&Route> {
        self.0.iter().find(|route| {
            route.host.as_ref().is_none_or(|wanted| **wanted == *host)
                && (route.methods.is_empty() || route.methods.iter().any(|wanted| **wanted == *method))
                && route.path.as_ref().is_none_or(|wanted| wanted.matches(path))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pep::testing::rules;

    #[test]
    fn the_first_match_counts() {
        let route = |host: Option<&str>, path: Option<&str>, methods: &[&str], upstream: &str| Route {
            host: host.map(Arc::from),
            path: path.map(|path| PathPattern::parse(path).unwrap()),
            methods: methods.iter().copied().map(Arc::from).collect(),
            service: None,
            rules: Arc::new(rules(upstream)),
        };
        let routes = Routes::new(vec![
            route(Some("Orders.Example"), Some("/orders/**"), &["GET"], "a"),
            route(None, Some("/healthz"), &[], "b"),
            route(Some("any.example"), None, &[], "c"),
        ]);
        let rows = [
            ("orders.example", "GET", "/orders/1", Some("a")),
            ("orders.example", "POST", "/orders/1", None),
            ("orders.example", "get", "/orders/1", None),
            ("orders.example.", "GET", "/orders/1", None),
            ("other.example", "GET", "/orders/1", None),
            ("other.example", "POST", "/healthz", Some("b")),
            ("any.example", "POST", "/healthz", Some("b")),
            ("any.example", "DELETE", "/x", Some("c")),
        ];
        for (host, method, path, expected) in rows {
            let found = routes.find(host, method, &CanonicalPath::parse(path).unwrap());
            assert_eq!(found.map(|route| &*route.rules.upstream), expected, "{method} {host}{path}");
        }
    }
}
