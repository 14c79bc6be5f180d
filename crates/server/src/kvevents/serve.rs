//! The two sockets: subscribers on one, those who missed something on the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::zmtp::{self, Broken, Reader};
use super::{KvEventsError, Publisher};

/// Connections per socket.
const PEERS: usize = 32;
/// Topics per subscriber.
const TOPICS: usize = 64;
/// A peer that takes nothing for so long is let go.
const STUCK: Duration = Duration::from_secs(10);
/// After the last batch that is repeated.
const END: [u8; 8] = (-1i64).to_be_bytes();

/// Both sockets, listening.
pub struct Sockets {
    publish: TcpListener,
    replay: Option<TcpListener>,
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, KvEventsError> {
    if !addr.ip().is_loopback() {
        return Err(KvEventsError::Wide(addr));
    }
    TcpListener::bind(addr).await.map_err(|why| KvEventsError::Bind { addr, why })
}

impl Sockets {
    /// Listens.
    ///
    /// # Errors
    /// An address beyond this machine, or one that is taken.
    pub async fn open(publish: SocketAddr, replay: Option<SocketAddr>) -> Result<Sockets, KvEventsError> {
        let replay = match replay {
            Some(addr) => Some(listen(addr).await?),
            None => None,
        };
        Ok(Sockets { publish: listen(publish).await?, replay })
    }

    /// Where they listen.
    pub fn addrs(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (self.publish.local_addr().ok(), self.replay.as_ref().and_then(|r| r.local_addr().ok()))
    }

    /// Serves until dropped; the connections end with it.
    pub async fn serve(self, publisher: Arc<Publisher>) {
        let subscribers = accept(self.publish, publisher.clone(), |stream, p| async move {
            // A peer that leaves or speaks nonsense is let go; nobody else notices.
            let _ = subscriber(stream, p).await;
        });
        match self.replay {
            None => subscribers.await,
            Some(replay) => {
                let repeats = accept(replay, publisher, |stream, p| async move {
                    let _ = repeater(stream, p).await;
                });
                tokio::join!(subscribers, repeats);
            }
        }
    }
}

async fn accept<F, Fut>(listener: TcpListener, publisher: Arc<Publisher>, serve: F)
where
    F: Fn(TcpStream, Arc<Publisher>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let seats = Arc::new(Semaphore::new(PEERS));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let serving = serve(stream, publisher.clone());
                tasks.spawn(async move {
                    serving.await;
                    drop(seat);
                });
            }
            // Out of file handles: others must close some first.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn send(to: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Broken> {
    let stuck = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    Ok(timeout(STUCK, to.write_all(bytes)).await.map_err(stuck)??)
}

async fn shake(
    reader: &mut Reader<impl tokio::io::AsyncRead + Unpin>,
    write: &mut (impl tokio::io::AsyncWrite + Unpin),
    own: &str,
    peers: &[&str],
) -> Result<(), Broken> {
    let late = |_| Broken::Speech("it did not say who it is in time");
    timeout(zmtp::PATIENCE, zmtp::shake(reader, write, own, peers)).await.map_err(late)?
}

async fn subscriber(mut stream: TcpStream, publisher: Arc<Publisher>) -> Result<(), Broken> {
    stream.set_nodelay(true)?;
    // Before the handshake ends: what is sent while the peer subscribes is not lost between the two.
    let mut news = publisher.tell.subscribe();
    let (read, mut write) = stream.split();
    let mut reader = Reader::new(read);
    shake(&mut reader, &mut write, "PUB", &["SUB", "XSUB"]).await?;
    let mut topics: Vec<Vec<u8>> = Vec::new();
    loop {
        tokio::select! {
            said = reader.next() => {
                let (command, parts) = said?;
                subscribe(&mut topics, command, &parts.concat())?;
            }
            new = news.recv() => match new {
                Ok((number, batch)) => {
                    if topics.iter().any(|t| publisher.topic.starts_with(t)) {
                        let parts = [&publisher.topic[..], &number.to_be_bytes(), &batch];
                        send(&mut write, &zmtp::message(&parts)).await?;
                    }
                }
                // It sees the gap in the numbers and asks for a repetition.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// A subscription is a message that begins with 1, or from later versions a command of that name; 0 ends one.
fn subscribe(topics: &mut Vec<Vec<u8>>, command: bool, said: &[u8]) -> Result<(), Broken> {
    let (add, topic) = match (command, said) {
        (false, [1, topic @ ..]) => (true, topic),
        (false, [0, topic @ ..]) => (false, topic),
        (true, _) => match (said.strip_prefix(b"\x09SUBSCRIBE"), said.strip_prefix(b"\x06CANCEL")) {
            (Some(topic), _) => (true, topic),
            (_, Some(topic)) => (false, topic),
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    if !add {
        if let Some(i) = topics.iter().position(|t| t == topic) {
            topics.swap_remove(i);
        }
    } else if topics.len() < TOPICS {
        topics.push(topic.to_vec());
    } else {
        return Err(Broken::Speech("it has too many subscriptions"));
    }
    Ok(())
}

/// Answers `[empty?, first number]` with `[empty?, number, batch]` for every batch from there on that is kept, and
/// `[empty?, -1, nothing]`.
async fn repeater(mut stream: TcpStream, publisher: Arc<Publisher>) -> Result<(), Broken> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut reader = Reader::new(read);
    shake(&mut reader, &mut write, "ROUTER", &["REQ", "DEALER", "ROUTER"]).await?;
    loop {
        let (command, parts) = reader.next().await?;
        let (envelope, first) = match &parts[..] {
            [empty, first] if empty.is_empty() => (true, first),
            [first] => (false, first),
            _ => continue,
        };
        let Ok(first) = <[u8; 8]>::try_from(&first[..]) else { continue };
        if command {
            continue;
        }
        let mut answer = async |number: &[u8], batch: &[u8]| {
            let parts: &[&[u8]] = &[b"", number, batch];
            send(&mut write, &zmtp::message(&parts[usize::from(!envelope)..])).await
        };
        for (number, batch) in publisher.since(u64::from_be_bytes(first)) {
            answer(&number.to_be_bytes(), &batch).await?;
        }
        answer(&END, b"").await?;
    }
}
