//! Which names and pages may talk to us. A web page anywhere can make a browser send requests to this machine: one that
//! resolves its own name to 127.0.0.1 is caught by the name in `Host`, one that posts across sites by `Origin`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::ApiError;
use crate::words::brief;

/// Names and pages that may talk to us.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hosts {
    /// only this machine can connect, so no other name can be right
    pub loopback: bool,
    /// further names that `Host` may say; checked when we are on loopback or any is given
    pub names: Vec<String>,
    /// origins of pages that may call us (CORS); none by default
    pub origins: Vec<String>,
}

/// The name in `host[:port]`, without brackets.
fn name(host: &str) -> Option<&str> {
    if let Some(rest) = host.strip_prefix('[') {
        let (inside, after) = rest.split_once(']')?;
        return (after.is_empty() || port(after)).then_some(inside);
    }
    match host.split_once(':') {
        Some((name, p)) => port(&host[name.len()..]).then_some(name).filter(|_| !p.is_empty()),
        None => Some(host),
    }
}

fn port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok())
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Hosts {
    /// For a server that listens here.
    pub fn at(addr: SocketAddr) -> Self {
        Self { loopback: addr.ip().is_loopback(), ..Self::default() }
    }

    fn check_host(&self, host: Option<&str>) -> Result<(), ApiError> {
        if !self.loopback && self.names.is_empty() {
            return Ok(());
        }
        let known = |n: &str| {
            (self.loopback && is_loopback(n)) || self.names.iter().any(|k| k.eq_ignore_ascii_case(n))
        };
        match host.and_then(name) {
            Some(n) if known(n) => Ok(()),
            _ => {
                let got = brief(host.unwrap_or(""));
                Err(ApiError::status(
                    StatusCode::MISDIRECTED_REQUEST,
                    "wrong_host",
                    format!(
                        "the request is for the host `{got}`, which is not this server; use 127.0.0.1 or localhost, \
                         or start with --allowed-host"
                    ),
                ))
            }
        }
    }

    /// The origin to answer to, when there is one that may call.
    fn check_origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, ApiError> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(None) };
        let text = origin.to_str().unwrap_or("");
        if self.origins.iter().any(|o| o == text) {
            return Ok(Some(origin.clone()));
        }
        let own = headers.get(HOST).and_then(|h| h.to_str().ok());
        let same = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        if own.is_some() && same == own {
            return Ok(None);
        }
        Err(ApiError::forbidden(
            "foreign_origin",
            format!(
                "pages of `{}` may not call this server; start with --cors-origin to let them",
                brief(text)
            ),
        ))
    }
}

/// The layer.
pub async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    // HTTP/2 and absolute-form requests name the host in the target.
    let host = match request.uri().authority() {
        Some(a) => Some(a.as_str()),
        None => headers.get(HOST).map(|h| h.to_str().unwrap_or("?")),
    };
    let checked = app.hosts.check_host(host).and_then(|()| app.hosts.check_origin(headers));
    let origin = match checked {
        Ok(origin) => origin,
        Err(e) => return e.into_response(),
    };
    let Some(origin) = origin else { return next.run(request).await };
    let preflight =
        request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let h = response.headers_mut();
    h.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    h.append(VARY, HeaderValue::from_static("origin"));
    h.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-request-id, retry-after"));
    if preflight {
        h.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        h.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static(
                "authorization, x-api-key, content-type, x-request-id, traceparent, anthropic-version",
            ),
        );
        h.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_loopback_only_names_of_this_machine_are_ours() {
        let h = Hosts { loopback: true, names: vec!["box.lan".into()], origins: vec![] };
        for fine in
            ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.1.2.3", "[::1]:9", "[::1]", "box.lan:1"]
        {
            assert!(h.check_host(Some(fine)).is_ok(), "{fine}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:",
            "localhost:99999",
            "[::1",
            "[::1]x",
            "169.254.169.254",
            "user@localhost",
        ] {
            assert!(h.check_host(Some(bad)).is_err(), "{bad}");
        }
        assert!(h.check_host(None).is_err());
        assert!(Hosts::default().check_host(Some("any.name")).is_ok(), "a wide bind has keys instead");
    }

    #[test]
    fn a_page_of_another_origin_is_refused_unless_it_is_named() {
        let of = |hosts: &Hosts, origin: &'static str| {
            let mut m = HeaderMap::new();
            m.insert(HOST, HeaderValue::from_static("127.0.0.1:8080"));
            m.insert(ORIGIN, HeaderValue::from_static(origin));
            hosts.check_origin(&m)
        };
        let (none, some) =
            (Hosts::default(), Hosts { origins: vec!["https://app.example".into()], ..Hosts::default() });
        assert!(of(&none, "http://127.0.0.1:8080").is_ok_and(|o| o.is_none()));
        for bad in ["https://app.example", "null", "http://127.0.0.1:8081", "file://"] {
            assert_eq!(of(&none, bad).unwrap_err().status.as_u16(), 403, "{bad}");
        }
        assert!(of(&some, "https://app.example").is_ok_and(|o| o.is_some()));
        assert!(of(&some, "https://app.example.evil").is_err());
    }
}
