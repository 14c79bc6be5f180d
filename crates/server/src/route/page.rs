//! `/`: a conversation and the machine at work, in files that are part of the program.
//!
//! The page asks nothing of anybody but this server, and says nothing of it: it needs no key, what it fetches does.

use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};

use super::{Method, Route};
use crate::app::App;

/// A file of the page.
struct Asset {
    kind: &'static str,
    bytes: &'static [u8],
    tag: OnceLock<String>,
}

/// Scripts, styles, pictures and connections of this origin only; no frame around it, no form that leaves.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
static RESOURCE: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

impl Asset {
    const fn new(kind: &'static str, bytes: &'static [u8]) -> Asset {
        Asset { kind, bytes, tag: OnceLock::new() }
    }

    fn tag(&self) -> &str {
        self.tag.get_or_init(|| format!("\"{}\"", &blake3::hash(self.bytes).to_hex()[..16]))
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
        let mut known = known.flat_map(|v| v.split(',')).map(|t| t.trim().trim_start_matches("W/"));
        let fresh = known.any(|t| t == "*" || t == self.tag());
        let mut r = match fresh {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => Bytes::from_static(self.bytes).into_response(),
        };
        let h = r.headers_mut();
        h.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        h.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        h.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        h.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        h.insert(OPENER.clone(), HeaderValue::from_static("same-origin"));
        h.insert(RESOURCE.clone(), HeaderValue::from_static("same-origin"));
        // Another version of the program has other files: ask each time, send them only then.
        h.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(tag) = HeaderValue::from_str(self.tag()) {
            h.insert(ETAG, tag);
        }
        r
    }
}

const fn route(path: &'static str, about: &'static str, serve: fn() -> MethodRouter<Arc<App>>) -> Route {
    Route { path, method: Method::Get, about, keyless: true, body: None, serve }
}

macro_rules! assets {
    ($($(#[$doc:meta])* $name:ident = $path:literal, $file:literal, $kind:literal, $about:literal;)*) => {$(
        $(#[$doc])*
        pub static $name: Route = route($path, $about, || {
            static ASSET: Asset = Asset::new($kind, include_bytes!(concat!("../../web/", $file)));
            get(async |asked: HeaderMap| ASSET.answer(&asked))
        });
    )*};
}

assets! {
    /// The document.
    PAGE = "/", "index.html", "text/html; charset=utf-8", "the web page";
    /// The conversation.
    CHAT = "/app.js", "app.js", "text/javascript; charset=utf-8", "the page's conversation";
    /// The gauges.
    BOARD = "/board.js", "board.js", "text/javascript; charset=utf-8", "the page's gauges";
    /// Text that models write, as nodes.
    TEXT = "/text.js", "text.js", "text/javascript; charset=utf-8", "how the page shows what models write";
    /// How it looks.
    STYLE = "/style.css", "style.css", "text/css; charset=utf-8", "how the page looks";
    /// Its picture in tabs.
    ICON = "/icon.svg", "icon.svg", "image/svg+xml", "the page's icon";
}
