#![allow(clippy::unwrap_used)]
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

fn stored(hash: u64, parent: Option<u64>) -> Event {
    Event::Stored { hash, parent, tokens: (0..16u32).map(|t| t.wrapping_add(hash as u32)).collect() }
}

/// Msgpack as text, read by hand from the format's own description.
fn show(b: &mut &[u8]) -> String {
    fn take<'a>(b: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (head, rest) = b.split_at(n);
        *b = rest;
        head
    }
    let number = |b: &mut &[u8], n: usize| take(b, n).iter().fold(0u64, |a, &x| a << 8 | u64::from(x));
    let list = |b: &mut &[u8], n: u64| {
        let all: Vec<String> = (0..n).map(|_| show(b)).collect();
        format!("[{}]", all.join(","))
    };
    let tag = take(b, 1)[0];
    match tag {
        0..0x80 => tag.to_string(),
        0x80..0x90 => {
            let all: Vec<String> = (0..tag & 15).map(|_| format!("{}:{}", show(b), show(b))).collect();
            format!("{{{}}}", all.join(","))
        }
        0x90..0xa0 => list(b, (tag & 15).into()),
        0xa0..0xc0 => String::from_utf8(take(b, (tag & 31).into()).to_vec()).unwrap(),
        0xc0 => "nil".into(),
        0xcb => f64::from_bits(number(b, 8)).to_string(),
        0xcc => number(b, 1).to_string(),
        0xcd => number(b, 2).to_string(),
        0xce => number(b, 4).to_string(),
        0xcf => number(b, 8).to_string(),
        0xdc => {
            let n = number(b, 2);
            list(b, n)
        }
        other => panic!("tag {other:x}"),
    }
}

#[test]
fn a_batch_is_what_routers_expect_and_neighbours_become_one_event() {
    let far = u64::MAX - 3;
    let events = [
        stored(300, None),
        stored(far, Some(300)),
        stored(5, Some(1)),
        Event::Removed { hash: 300 },
        Event::Removed { hash: 5 },
        Event::Cleared,
    ];
    let batch = encode(&events, 12.5);
    let mut rest = &batch[..];
    let got = show(&mut rest);
    assert!(rest.is_empty());
    let ids =
        |h: u64| (0..16).map(|t: u32| (t.wrapping_add(h as u32)).to_string()).collect::<Vec<_>>().join(",");
    let event = |hashes: String, parent: &str, ids: String| {
        format!(
            "{{type:BlockStored,block_hashes:[{hashes}],parent_block_hash:{parent},token_ids:[{ids}],block_size:16,lora_id:nil}}"
        )
    };
    // The page with the far hash wraps in its tokens; they are the test's own.
    let first = event(format!("300,{far}"), "nil", format!("{},{}", ids(300), ids(far)));
    let want = format!(
        "[12.5,[{first},{},{{type:BlockRemoved,block_hashes:[300,5]}},{{type:AllBlocksCleared}}],0]",
        event("5".into(), "1", ids(5))
    );
    assert_eq!(got, want);
}

/// The other end, byte by byte.
struct Peer(TcpStream);

impl Peer {
    async fn connect(addr: std::net::SocketAddr, kind: &str) -> Peer {
        let mut s = TcpStream::connect(addr).await.unwrap();
        let mut greeting = vec![0u8; 64];
        (greeting[0], greeting[9], greeting[10], greeting[11]) = (0xff, 0x7f, 3, 1);
        greeting[12..16].copy_from_slice(b"NULL");
        s.write_all(&greeting).await.unwrap();
        let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
        ready.push(kind.len() as u8);
        ready.extend(kind.as_bytes());
        ready.extend(b"\x08Identity\0\0\0\0");
        s.write_all(&[4, ready.len() as u8]).await.unwrap();
        s.write_all(&ready).await.unwrap();
        let mut got = [0; 64];
        s.read_exact(&mut got).await.unwrap();
        assert_eq!((got[0], got[9], got[10], &got[12..17]), (0xff, 0x7f, 3, &b"NULL\0"[..]));
        let mut peer = Peer(s);
        assert!(peer.frame().await.unwrap().1.starts_with(b"\x05READY"));
        peer
    }

    async fn frame(&mut self) -> std::io::Result<(bool, Vec<u8>)> {
        let flags = self.0.read_u8().await?;
        let len = if flags & 2 != 0 { self.0.read_u64().await? } else { self.0.read_u8().await?.into() };
        let mut body = vec![0; len as usize];
        self.0.read_exact(&mut body).await?;
        Ok((flags & 1 != 0, body))
    }

    async fn message(&mut self) -> Vec<Vec<u8>> {
        let mut parts = vec![];
        loop {
            let (more, body) =
                tokio::time::timeout(Duration::from_secs(20), self.frame()).await.unwrap().unwrap();
            parts.push(body);
            if !more {
                return parts;
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }
}

async fn served(topic: &str) -> (Arc<Publisher>, std::net::SocketAddr, std::net::SocketAddr) {
    let any = "127.0.0.1:0".parse().unwrap();
    let sockets = Sockets::open(any, Some(any)).await.unwrap();
    let (publish, replay) = sockets.addrs();
    let publisher = Arc::new(Publisher::new(topic));
    tokio::spawn(sockets.serve(publisher.clone()));
    (publisher, publish.unwrap(), replay.unwrap())
}

/// Publishes until the subscriber has something: when a subscription arrives is not ours to know.
async fn until_heard(publisher: &Publisher, peer: &mut Peer) -> Vec<Vec<u8>> {
    loop {
        publisher.publish(&[stored(7, None)], SystemTime::now());
        // `readable` may say yes for what was read already.
        let mut one = [0];
        if let Ok(n) = tokio::time::timeout(Duration::from_millis(20), peer.0.peek(&mut one)).await {
            assert_eq!(n.unwrap(), 1, "the publisher hung up");
            return peer.message().await;
        }
    }
}

#[tokio::test]
async fn a_subscriber_gets_topic_number_and_batch_and_a_missed_one_is_repeated() {
    let (publisher, publish, replay) = served("kv@here").await;
    let mut sub = Peer::connect(publish, "SUB").await;
    sub.say(b"\0\x04\x01kv@").await;
    let first = until_heard(&publisher, &mut sub).await;
    assert_eq!((first.len(), &first[0][..]), (3, &b"kv@here"[..]));
    let number = u64::from_be_bytes(first[1][..].try_into().unwrap());
    assert!(show(&mut &first[2][..]).contains("BlockStored"));
    // A long batch, so that long frames are crossed too.
    let many: Vec<Event> = (0..300).map(|i| stored(1000 + i, (i > 0).then_some(999 + i))).collect();
    publisher.publish(&many, SystemTime::now());
    let big = loop {
        let parts = sub.message().await;
        if parts[2].len() > 5000 {
            break parts;
        }
    };
    let last = u64::from_be_bytes(big[1][..].try_into().unwrap());
    assert_eq!(last + 1, publisher.sent());

    for (kind, envelope) in [("REQ", &b"\x01\0"[..]), ("DEALER", b"")] {
        let mut req = Peer::connect(replay, kind).await;
        req.say(&[envelope, b"\0\x08", &number.to_be_bytes()].concat()).await;
        let skip = usize::from(!envelope.is_empty());
        for want in number..=last {
            let parts = req.message().await;
            assert_eq!(parts.len(), 2 + skip);
            assert_eq!(parts[skip], want.to_be_bytes());
            if want == last {
                assert_eq!(parts[skip + 1], big[2]);
            }
        }
        let end = req.message().await;
        assert_eq!((&end[skip][..], end[skip + 1].len()), (&[0xff; 8][..], 0));
    }
}

#[tokio::test]
async fn only_what_is_subscribed_arrives_and_nonsense_harms_nobody() {
    let (publisher, publish, _) = served("kv").await;
    let mut good = Peer::connect(publish, "SUB").await;
    good.say(b"\x04\x0a\x09SUBSCRIBE").await;
    let mut other = Peer::connect(publish, "SUB").await;
    other.say(b"\0\x05\x01else").await;
    let mut left = Peer::connect(publish, "SUB").await;
    left.say(b"\0\x01\x01\0\x01\0").await;
    for nonsense in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 200], &[0; 64], b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0CURVE"]
    {
        let mut s = TcpStream::connect(publish).await.unwrap();
        s.write_all(nonsense).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let mut huge = Peer::connect(publish, "SUB").await;
    huge.say(&[2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).await;
    assert!(huge.frame().await.is_err(), "a frame of many bytes ends the connection");
    until_heard(&publisher, &mut good).await;
    for quiet in [&mut other, &mut left] {
        let heard = tokio::time::timeout(Duration::from_millis(50), quiet.frame()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

#[tokio::test]
async fn it_listens_on_this_machine_only() {
    let e = Sockets::open("0.0.0.0:0".parse().unwrap(), None).await.err().unwrap();
    assert!(matches!(e, KvEventsError::Wide(_)));
}

#[test]
fn what_is_kept_to_be_repeated_is_bounded() {
    let p = Publisher::new("");
    (0..KEPT as u64 + 50).for_each(|i| p.publish(&[Event::Removed { hash: i }], SystemTime::UNIX_EPOCH));
    assert_eq!(p.since(0).len(), KEPT);
    assert_eq!(p.since(p.sent() - 3).len(), 3);
}
