//! The request's id, its place in a trace, and the moment it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::app::App;
use crate::error::ApiError;
use crate::observe::{Served, Trace};
use crate::route;

/// Name of the header that carries the id both ways.
pub const HEADER: &str = "x-request-id";
const MOST: usize = 128;

/// What is known of a request before it is read.
#[derive(Clone, Debug)]
pub struct Seen {
    /// its id: the client's, or a fresh one
    pub id: Arc<str>,
    /// from `traceparent`
    pub trace: Option<Trace>,
    /// when its head had been read
    pub at: Instant,
    /// the path's pattern; empty when nothing is there
    pub route: &'static str,
}

static MADE: AtomicU64 = AtomicU64::new(0);

/// An id nobody else has: start of the process and a count, mixed so that ids of neighbours look different.
pub fn fresh() -> Arc<str> {
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let start = *START.get_or_init(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
            ^ u64::from(std::process::id()).rotate_left(48)
    });
    let n = MADE.fetch_add(1, Ordering::Relaxed);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&start.to_le_bytes());
    bytes[8..].copy_from_slice(&n.to_le_bytes());
    blake3::hash(&bytes).to_hex()[..24].into()
}

fn given(headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers.get(HEADER)?.to_str().ok()?;
    let fine = |b: u8| b.is_ascii_graphic();
    (!id.is_empty() && id.len() <= MOST && id.bytes().all(fine)).then(|| id.into())
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zero; anything else counts as absent, as the standard asks.
pub fn trace(headers: &HeaderMap) -> Option<Trace> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.trim().split('-');
    let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = bytes::<1>(version)?[0];
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let (id, parent, flags) = (bytes::<16>(id)?, bytes::<8>(parent)?, bytes::<1>(flags)?[0]);
    (id != [0; 16] && parent != [0; 8]).then_some(Trace { id, parent, sampled: flags & 1 == 1 })
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hex.len() != 2 * N || !hex.bytes().all(lower) {
        return None;
    }
    let mut out = [0; N];
    for (i, o) in out.iter_mut().enumerate() {
        *o = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}

/// The layer.
pub async fn layer(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", |p| route::pattern(p.as_str()));
    let id = given(request.headers()).unwrap_or_else(fresh);
    let seen = Seen { id: id.clone(), trace: trace(request.headers()), at: Instant::now(), route };
    let at = seen.at;
    request.extensions_mut().insert(seen);
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    let code = response.extensions().get::<ApiError>().map(|e| e.code);
    let served = Served { route, status: response.status().as_u16(), code, took: at.elapsed() };
    app.observers.tell(|o| o.served(&served));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_repeat_and_a_strange_one_is_replaced() {
        let mut seen = std::collections::BTreeSet::new();
        assert!((0..1000).all(|_| seen.insert(fresh())));
        let of = |v: &'static [u8]| {
            let mut h = HeaderMap::new();
            h.insert(HEADER, HeaderValue::from_bytes(v).unwrap());
            given(&h)
        };
        assert_eq!(of(b"abc-1").as_deref(), Some("abc-1"));
        assert_eq!((of(b""), of(b"a b"), of(&[b'x'; 129]), of(b"\xff")), (None, None, None, None));
    }

    #[test]
    fn only_a_whole_traceparent_counts() {
        let of = |v: &str| {
            let mut h = HeaderMap::new();
            h.insert("traceparent", HeaderValue::from_str(v).unwrap());
            trace(&h)
        };
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let t = of(good).unwrap();
        assert_eq!((t.id[0], t.parent[7], t.sampled), (0x0a, 0x31, true));
        assert!(of(&format!("01{}-more", &good[2..])).is_some(), "later versions may say more");
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &format!("{good}-more"),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &good.replacen("00", "ff", 1),
            &good[..54],
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
