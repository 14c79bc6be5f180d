//! `tamp serve`: models behind HTTP until a signal, then the way out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tamp_base::ids::PAGE;
use tamp_base::settings::Settings;
use tamp_engine::EngineOptions;
use tamp_engine::drive::drive;
use tamp_model::family;
use tamp_server::app::App;
use tamp_server::board::Board;
use tamp_server::error::ServerError;
use tamp_server::keys::Keys;
use tamp_server::kvevents;
use tamp_server::layer::host::Hosts;
use tamp_server::model::{Fixed, Served};
use tamp_server::observe::Observers;
use tamp_server::ops::Ops;
use tamp_server::otlp::Target;
use tamp_server::serve::Server;
use tamp_weights::Weights;

use crate::args::ServeArgs;
use crate::cmd::ceiling::Ceiling;
use crate::cmd::load::{self, Wish, named};
use crate::cmd::{Ctx, findings};
use crate::fail::{Code, Done, Fail};
use crate::out::note;

/// Sequences at once without a wish: what a laptop still gains from on a model that is bound by memory.
const BATCH: usize = 16;

impl From<ServerError> for Fail {
    fn from(e: ServerError) -> Self {
        let code = match e {
            ServerError::Keys { .. } => Code::File,
            ServerError::Open { .. } => Code::Refused,
            ServerError::Bind { .. } | ServerError::System(_) => Code::Other,
            ServerError::Model { .. } => Code::File,
            ServerError::Card(e) => return e.into(),
        };
        Fail::new(code, e)
    }
}

/// KV events wait so long to be sent together.
const KV_EVERY: Duration = Duration::from_millis(50);

/// Runs it.
pub fn run(ctx: &Ctx, a: &ServeArgs) -> Done {
    let addr = SocketAddr::new(a.host, a.port);
    let keys = a.keys.as_deref().map(Keys::open).transpose()?;
    if !addr.ip().is_loopback() && keys.is_none() {
        // Before a model is loaded for nothing.
        return Err(ServerError::Open { addr: addr.to_string() }.into());
    }
    let otlp = a.otlp.as_deref().map(Target::parse).transpose().map_err(Fail::usage)?;
    if otlp.is_some() && ctx.settings.used("engine.trace") != Some("spans") {
        return Err(Fail::usage("--otlp has nothing to send without spans; add --use engine.trace=spans"));
    }
    if a.kv_events.is_some() && a.models.len() > 1 {
        return Err(Fail::usage("--kv-events tells of one model's cache; serve each model by itself"));
    }
    let names: Vec<Option<&str>> = match a.models.as_slice() {
        [] => vec![None],
        all => all.iter().map(|m| Some(m.as_str())).collect(),
    };
    let mut models: Vec<Arc<Served>> = Vec::new();
    let mut board = Board { rooms: super::rooms(), findings: findings::all(ctx), ..Board::default() };
    for name in names {
        let (model, ceiling) = open(ctx, a, name, models.len())?;
        if models.iter().any(|m| m.name == model.name) {
            return Err(Fail::usage(format!("two of the models are called `{}`", model.name)));
        }
        board.ceilings.insert(model.name.clone(), ceiling);
        models.push(Arc::new(model));
    }
    let mut app = App::new(Box::new(Fixed::new(models)));
    app.board = board;
    app.keys = keys.map(Arc::new);
    app.limits.drain = Duration::from_secs(a.drain_seconds.into());
    app.hosts = Hosts { names: a.allowed_host.clone(), origins: a.cors_origin.clone(), ..Hosts::default() };
    app.settings = ctx.settings.within(&tamp_server::send::rooms());
    // Refused now, not at the first stream.
    tamp_server::send::TABLE.open(&(), &app.settings)?;
    let ops = Arc::new(Ops::new(&app.settings, BTreeMap::new())?);
    app.observers = Observers::new(vec![ops.clone()]);
    app.ops = Some(ops.clone());
    let server = Server::bind(app, addr)?;
    beside(&server, &ops, otlp, a)?;
    server.overhear(|model, sentence| note(format_args!("{model}: {sentence}")));
    note(format_args!("listening on http://{}", server.addr()));
    if !server.run(true)? {
        note("the time to finish was up; what was still under way was ended");
    }
    Ok(())
}

/// What runs beside the requests: spans to a collector, events to routers.
fn beside(server: &Server, ops: &Arc<Ops>, otlp: Option<Target>, a: &ServeArgs) -> Done {
    let models = server.app().models.loaded();
    if let Some(target) = otlp {
        for model in &models {
            server.runtime().spawn(ops.clone().export(model.clone(), target.clone()));
        }
    }
    if let (Some(addr), Some(model)) = (a.kv_events, models.first()) {
        let sockets = server.runtime().block_on(kvevents::Sockets::open(addr, a.kv_replay));
        let sockets = sockets.map_err(|e| Fail::new(Code::Refused, e))?;
        let publisher = Arc::new(kvevents::Publisher::new(&format!("kv@tamp@{}", model.name)));
        let source = Arc::new(kvevents::Engine::new(model.handle.clone()));
        server.runtime().spawn(sockets.serve(publisher.clone()));
        server.runtime().spawn(kvevents::follow(publisher, source, KV_EVERY));
    }
    Ok(())
}

/// A model on an engine of its own, and what this machine can read, 10⁹ bytes/s. `others` are loaded already.
fn open(ctx: &Ctx, a: &ServeArgs, name: Option<&str>, others: usize) -> Done<(Served, f64)> {
    let path = ctx.finder().find(name)?;
    let mut settings = ctx.settings.clone();
    if let Some(batch) = a.batch {
        settings.add_set(&format!("engine.core.batch={batch}"), "--batch")?;
    }
    let batch = settings.knob("engine.core.batch").and_then(|b| b.parse().ok()).unwrap_or(BATCH);
    if settings.knob("engine.core.pages").is_none() {
        let pages = pages(&path, &settings, a, batch).map_err(|e| named(e, &path))?;
        settings.add_set(&format!("engine.core.pages={pages}"), "memory")?;
    }
    let wish = Wish { batch: Some(batch), shares: true, ..Wish::default() };
    let loaded = load::load_as(ctx, &path, settings, &a.load, wish)?;
    loaded.settle()?;
    let name = match name {
        Some(n) if !Path::new(n).exists() => n.to_string(),
        _ => path.file_stem().map_or_else(|| "default".into(), |s| s.to_string_lossy().into_owned()),
    };
    let modified = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
    let created = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs());
    let ceiling = Ceiling::known(ctx, &loaded, 0.0).gb_s;
    let template = loaded.template.clone();
    let plan = loaded.engine.plan();
    note(format_args!(
        "{name}: {} positions, {} sequences at once, {} KV pages, {:.0} MB at full context{}",
        plan.ctx,
        plan.batch,
        plan.kv.pages,
        plan.memory.at_full as f64 / 1e6,
        if others > 0 { ", beside the models before" } else { "" },
    ));
    let (handle, driver) = drive(loaded.engine).map_err(ServerError::from)?;
    Ok((Served::new(&name, handle, template.as_deref(), created)?.owning(driver), ceiling))
}

/// KV pages: full contexts for every sequence, unless half of the memory that the weights leave holds fewer; at least
/// one full context.
fn pages(path: &Path, settings: &Settings, a: &ServeArgs, batch: usize) -> Done<usize> {
    let weights = Weights::open_as(path, tamp_engine::residency(settings))?;
    let (_, shape) = family::of(&weights).map_err(tamp_engine::EngineError::from)?;
    let mut options = EngineOptions::read(settings)?;
    options.ctx = a.load.ctx.map_or(options.ctx, |c| c as usize);
    options.batch = batch;
    let each = options.resolve(&shape)?.ctx.div_ceil(PAGE);
    let kind = tamp_kv::codec::TABLE.open(&(), settings)?.0;
    let row = kind.row_bytes(shape.head_dim).unwrap_or(4 * shape.head_dim);
    let page = (2 * row * PAGE * shape.kv_heads * shape.layers).max(1);
    let room = tamp_os::memory::available().saturating_sub(weights.file_bytes()) / 2;
    Ok((room as usize / page).min(each * batch).max(each))
}
