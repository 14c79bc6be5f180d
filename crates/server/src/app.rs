//! What every request may use.

use std::sync::Arc;
use std::time::SystemTime;

use tamp_base::settings::Settings;

use crate::board::Board;
use crate::drain::Drain;
use crate::keys::Keys;
use crate::layer::host::Hosts;
use crate::layer::thinkgate;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::model::Models;
use crate::observe::Observers;
use crate::ops::Ops;

/// The server's state; shared by all requests.
pub struct App {
    /// the models
    pub models: Box<dyn Models>,
    /// bounds
    pub limits: Limits,
    /// who may ask; without keys everybody who can connect, which is this machine
    pub keys: Option<Arc<Keys>>,
    /// who watches
    pub observers: Observers,
    /// what `/metrics` shows; also one of the observers
    pub ops: Option<Arc<Ops>>,
    /// what moves, for the page; watches beside the observers once the server is bound
    pub meter: Arc<Meter>,
    /// what the page shows beside it
    pub board: Board,
    /// the way out
    pub drain: Drain,
    /// which names and pages may talk to us
    pub hosts: Hosts,
    /// turns thinking off where rules say so
    pub gate: thinkgate::State,
    /// choices of the rooms `server.*`
    pub settings: Settings,
    /// when it began
    pub started: SystemTime,
}

impl App {
    /// With default bounds, no keys and nobody who watches.
    pub fn new(models: Box<dyn Models>) -> Self {
        App {
            models,
            limits: Limits::default(),
            keys: None,
            observers: Observers::default(),
            ops: None,
            meter: Arc::default(),
            board: Board::default(),
            drain: Drain::default(),
            hosts: Hosts::default(),
            gate: thinkgate::State::default(),
            settings: Settings::default(),
            started: SystemTime::now(),
        }
    }
}
