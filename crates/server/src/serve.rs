//! The listener: connections within their bounds, signals, and the way out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::App;
use crate::error::ServerError;
use crate::layer::host::Hosts;
use crate::{meter, route};

/// Connections that finished answering get so long to be written out.
const FLUSH: Duration = Duration::from_secs(2);
/// Engines are asked this often whether they have something to say.
const OVERHEAR: Duration = Duration::from_secs(1);
/// Heads with more fields are no client's.
const MOST_HEADERS: usize = 64;

/// A server that listens and does not answer yet.
pub struct Server {
    runtime: Runtime,
    listener: TcpListener,
    addr: SocketAddr,
    app: Arc<App>,
}

impl Server {
    /// Listens. Port 0 takes any free one. Names that `Host` may say besides this machine's own and origins are taken
    /// from `app.hosts`.
    ///
    /// # Errors
    /// An address that cannot be had, and one that others can reach while nobody is asked for a key.
    pub fn bind(mut app: App, addr: SocketAddr) -> Result<Server, ServerError> {
        if !addr.ip().is_loopback() && app.keys.is_none() {
            return Err(ServerError::Open { addr: addr.to_string() });
        }
        // Connections cost little beside the engine's own workers; reading long prompts is bounded to two cores more.
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(2)
            .thread_name("http")
            .enable_io()
            .enable_time()
            .build()?;
        let listener = runtime
            .block_on(TcpListener::bind(addr))
            .map_err(|why| ServerError::Bind { addr: addr.to_string(), why })?;
        let addr = listener.local_addr()?;
        app.hosts = Hosts { loopback: Hosts::at(addr).loopback, ..app.hosts };
        app.observers = app.observers.with(app.meter.clone());
        let app = Arc::new(app);
        if let Some(ops) = &app.ops {
            ops.attach(&app);
        }
        Ok(Server { runtime, listener, addr, app })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What requests use; beginning its drain ends [`Server::run`].
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// For those who have work beside the requests.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Hands what engines have to tell the operator, such as a cache that stopped writing, to `say`: a model's name and
    /// a sentence. Until the server ends; without this nobody hears it.
    pub fn overhear(&self, say: impl Fn(&str, &str) + Send + 'static) {
        let app = self.app.clone();
        self.runtime.spawn(async move {
            loop {
                for model in app.models.loaded() {
                    model.handle.notes().iter().for_each(|sentence| say(&model.name, sentence));
                }
                tokio::time::sleep(OVERHEAR).await;
            }
        });
    }

    /// Answers until the drain has begun, by `SIGTERM`, `SIGINT` or [`crate::drain::Drain::begin`], and what was under
    /// way is finished, or its time is up. `signals`: listen to them; a second one ends at once. Whether all was
    /// finished.
    ///
    /// # Errors
    /// The system gives no signals.
    pub fn run(self, signals: bool) -> Result<bool, ServerError> {
        let Server { runtime, listener, app, .. } = self;
        let done = runtime.block_on(async {
            let mut signal = Signals::new(signals)?;
            let (close, closing) = watch::channel(false);
            tokio::spawn(meter::watch(Arc::downgrade(&app)));
            let accepting = tokio::spawn(accept(listener, app.clone(), closing));
            tokio::select! {
                () = app.drain.begun() => {}
                () = signal.next() => app.drain.begin(),
            }
            let finished = tokio::select! {
                f = tokio::time::timeout(app.limits.drain, app.drain.idle()) => f.is_ok(),
                () = signal.next() => false,
            };
            close.send_replace(true);
            let flush = if finished { FLUSH } else { Duration::ZERO };
            let _ = tokio::time::timeout(flush, accepting).await;
            Ok::<_, ServerError>(finished)
        })?;
        runtime.shutdown_timeout(Duration::from_millis(100));
        Ok(done)
    }
}

/// Takes connections until `closing`, then waits for those that live.
async fn accept(listener: TcpListener, app: Arc<App>, closing: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(app.limits.connections.max(1)));
    let router = route::router(app.clone());
    let mut live = JoinSet::new();
    let mut told = closing.clone();
    loop {
        let taken = async {
            let permit = room.clone().acquire_owned().await.ok()?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => return Some((stream, permit)),
                    // No file is free for another connection: those that live will give theirs back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        tokio::select! {
            _ = told.wait_for(|c| *c) => break,
            _ = live.join_next(), if !live.is_empty() => {}
            got = taken => {
                let Some((stream, permit)) = got else { break };
                let (router, app, closing) = (router.clone(), app.clone(), closing.clone());
                live.spawn(async move {
                    connection(stream, router, &app, closing).await;
                    drop(permit);
                });
            }
        }
    }
    drop(listener);
    while live.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: axum::Router, app: &App, mut closing: watch::Receiver<bool>) {
    // A token is a small packet, and waiting to fill it would hold it back.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.limits.head_time)
        // The least the library takes is 8 kB.
        .max_buf_size(app.limits.head.max(8 << 10))
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    tokio::select! {
        // A client that hung up or sent nonsense was answered as far as it could be.
        _ = served.as_mut() => return,
        _ = closing.wait_for(|c| *c) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// The two signals that ask for the end.
struct Signals {
    #[cfg(unix)]
    both: Option<[tokio::signal::unix::Signal; 2]>,
    #[cfg(not(unix))]
    on: bool,
}

impl Signals {
    #[cfg(unix)]
    fn new(on: bool) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let both = match on {
            true => Some([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]),
            false => None,
        };
        Ok(Self { both })
    }

    #[cfg(not(unix))]
    fn new(on: bool) -> std::io::Result<Self> {
        Ok(Self { on })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        match &mut self.both {
            Some([terminate, interrupt]) => tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            },
            None => std::future::pending().await,
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if !self.on || tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}
