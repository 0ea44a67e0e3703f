//! Who may ask, and who may change: `Host`, `Origin` and the token. Pure.
//!
//! Against DNS rebinding: a page of another site can have its reader's browser ask this server, under a name that the site has
//! made point here. Such a request names that name in `Host`, and is refused. Against forged changes: a change needs a header
//! that no other site can send, and what the browser says about where the request comes from must not contradict.

use std::net::{IpAddr, Ipv6Addr};

use hyper::{
    Request, StatusCode,
    header::{self, HeaderName},
};
use mcr_proto::message::{Http, Secret};
use subtle::ConstantTimeEq;

use super::Document;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who is let in.
#[derive(Debug)]
pub(super) struct Guard {
    names: Vec<String>,
    token: Option<Secret>,
}

/// Why somebody may not change anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no token that would help.
    ReadOnly,
    /// The token is missing, or another.
    Token,
    /// From a page of another site.
    Origin,
}

impl Guard {
    pub(super) fn new(http: Http) -> Self {
        Self { names: http.names, token: http.token }
    }

    /// Whether anybody may change anything.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Refuses a request that does not name this host. One without any name comes from no browser.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<(), Document> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = hosts.next().map(|host| host.to_str().unwrap_or_default());
        if hosts.next().is_some() {
            return Err(Document::plain(StatusCode::BAD_REQUEST, "more than one Host"));
        }
        let of_uri = request.uri().authority().map(|authority| authority.as_str());
        match host.into_iter().chain(of_uri).find(|host| !self.knows(host)) {
            None => Ok(()),
            Some(host) => Err(Document::plain(
                StatusCode::MISDIRECTED_REQUEST,
                format!(
                    "`{}` is not known as a name of this host; ask by address, or start mcrd with --http-name",
                    host.escape_debug().take(256).collect::<String>()
                ),
            )),
        }
    }

    /// Whether a `Host` with or without a port is this host's. Addresses are nobody's names.
    fn knows(&self, host: &str) -> bool {
        if let Some(rest) = host.strip_prefix('[') {
            let Some((address, port)) = rest.split_once(']') else { return false };
            return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|known| name.eq_ignore_ascii_case(known))
    }

    /// Whether the request may change something.
    pub(super) fn may_change<B>(&self, request: &Request<B>) -> Result<(), Refused> {
        let text =
            |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        if let Some(origin) = text(header::ORIGIN) {
            let host = text(header::HOST).unwrap_or_default();
            // Behind a proxy the browser may speak TLS.
            let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if own != Some(host) {
                return Err(Refused::Origin);
            }
        }
        if text(FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return Err(Refused::Origin);
        }
        let Some(Secret(token)) = &self.token else { return Err(Refused::ReadOnly) };
        let shown = text(header::AUTHORIZATION).and_then(|shown| {
            let (scheme, token) = shown.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        // Takes the same time wherever they differ; a length is no secret.
        let same = shown.is_some_and(|shown| bool::from(shown.as_bytes().ct_eq(token.as_bytes())));
        if same { Ok(()) } else { Err(Refused::Token) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>) -> Guard {
        let token = token.map(|token| Secret(token.into()));
        Guard::new(Http { names: vec!["relay1".into(), "Relay1.example.com".into()], token })
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn addresses_localhost_and_own_names_are_served_and_other_names_are_not() {
        let guard = guard(None);
        let admitted = |host: &str| guard.admit(&request(&[("host", host)])).is_ok();
        for host in [
            "127.0.0.1",
            "10.1.2.3:9650",
            "[::1]",
            "[fd00::1]:9650",
            "localhost",
            "LOCALHOST:9650",
            "relay1",
            "relay1.EXAMPLE.com:80",
        ] {
            assert!(admitted(host), "{host}");
        }
        for host in [
            "",
            "evil.com",
            "evil.com:9650",
            "relay1.evil.com",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "[::1].evil.com",
            "[evil]",
            "[::1",
            "xlocalhost",
            "relay1.",
            "a b",
        ] {
            assert!(!admitted(host), "{host}");
        }
        assert!(guard.admit(&request(&[])).is_ok(), "no browser leaves it out");
        assert!(guard.admit(&request(&[("host", "localhost"), ("host", "evil.com")])).is_err());
        let absolute =
            Request::builder().uri("http://evil.com/").header("host", "localhost").body(()).unwrap();
        assert!(guard.admit(&absolute).is_err());
    }

    #[test]
    fn only_the_token_lets_change_and_only_from_here() {
        const TOKEN: &str = "0123456789abcdef";
        let check = |headers: &[(&str, &str)]| guard(Some(TOKEN)).may_change(&request(headers));
        let shown = ("authorization", "Bearer 0123456789abcdef");
        let host = ("host", "localhost:9650");
        assert_eq!(check(&[host, shown]), Ok(()));
        assert_eq!(
            check(&[host, shown, ("origin", "http://localhost:9650"), ("sec-fetch-site", "same-origin")]),
            Ok(())
        );
        assert_eq!(check(&[host, shown, ("origin", "https://localhost:9650")]), Ok(()));
        for authorization in [
            "",
            "Bearer",
            "Bearer ",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdef0",
        ] {
            assert_eq!(
                check(&[host, ("authorization", authorization)]),
                Err(Refused::Token),
                "{authorization}"
            );
        }
        assert_eq!(check(&[host]), Err(Refused::Token));
        for origin in [
            "null",
            "http://evil.com",
            "http://localhost",
            "http://localhost:9650.evil.com",
            "localhost:9650",
        ] {
            assert_eq!(check(&[host, shown, ("origin", origin)]), Err(Refused::Origin), "{origin}");
        }
        assert_eq!(check(&[host, shown, ("sec-fetch-site", "cross-site")]), Err(Refused::Origin));
        assert_eq!(guard(None).may_change(&request(&[host, shown])), Err(Refused::ReadOnly));
    }
}
