//! KV events as a program built on libzmq reads them. Skips with a line where Python has no `zmq` and `msgpack`;
//! `TAMP_PYTHON` names another interpreter than `python3`.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tamp_server::kvevents::{Event, Publisher, Sockets};

const READER: &str = r#"
import sys, zmq, msgpack, json
pub, rep = sys.argv[1:3]
c = zmq.Context()
sub = c.socket(zmq.SUB)
sub.setsockopt(zmq.RCVTIMEO, 20000)
sub.connect("tcp://" + pub)
sub.setsockopt(zmq.SUBSCRIBE, b"kv")
topic, number, batch = sub.recv_multipart()
seen = [(topic.decode(), int.from_bytes(number, "big"), msgpack.unpackb(batch))]
req = c.socket(zmq.DEALER)
req.setsockopt(zmq.RCVTIMEO, 20000)
req.connect("tcp://" + rep)
req.send_multipart([b"", (0).to_bytes(8, "big")])
repeated = []
while True:
    empty, number, batch = req.recv_multipart()
    number = int.from_bytes(number, "big", signed=True)
    if number < 0:
        assert batch == b""
        break
    repeated.append((number, msgpack.unpackb(batch)))
print(json.dumps({"seen": seen, "repeated": repeated}))
"#;

#[test]
fn a_reader_built_on_libzmq_understands_events_and_repetitions() {
    let python = std::env::var("TAMP_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import zmq, msgpack"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|s| s.success()) {
        println!("skipped: {python} has no zmq and msgpack");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let sockets = runtime.block_on(Sockets::open(any, Some(any))).unwrap();
    let (publish, replay) = sockets.addrs();
    let publisher = Arc::new(Publisher::new("kv@tiny"));
    runtime.spawn(sockets.serve(publisher.clone()));
    let mut reader = Command::new(&python)
        .args(["-c", READER, &publish.unwrap().to_string(), &replay.unwrap().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let events = [
        Event::Stored { hash: u64::MAX, parent: None, tokens: (0..16).collect() },
        Event::Stored { hash: 9, parent: Some(u64::MAX), tokens: (16..32).collect() },
        Event::Removed { hash: 9 },
        Event::Cleared,
    ];
    // When the subscription arrives is the reader's business: batches come until it has what it wants.
    while reader.try_wait().unwrap().is_none() {
        publisher.publish(&events, SystemTime::now());
        std::thread::sleep(Duration::from_millis(50));
    }
    let out = reader.wait_with_output().unwrap();
    let got: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let batch = &got["seen"][0][2];
    assert_eq!(got["seen"][0][0], "kv@tiny");
    let stored = serde_json::json!({
        "type": "BlockStored", "block_hashes": [u64::MAX, 9], "parent_block_hash": null,
        "token_ids": (0..32).collect::<Vec<_>>(), "block_size": 16, "lora_id": null,
    });
    let rest = serde_json::json!([
        {"type": "BlockRemoved", "block_hashes": [9]}, {"type": "AllBlocksCleared"},
    ]);
    assert_eq!(batch[1], serde_json::json!([stored, rest[0], rest[1]]));
    assert!(batch[0].as_f64().unwrap() > 1.7e9 && batch[2] == 0);
    let repeated = got["repeated"].as_array().unwrap();
    let number = got["seen"][0][1].as_u64().unwrap() as usize;
    assert!(repeated.len() > number);
    assert_eq!(repeated[number][1], *batch);
    assert!(repeated.iter().enumerate().all(|(i, r)| r[0] == i));
}
