//! What stands around every route: who asks, from where, with what id, and whether there is still time.
//!
//! Order, outermost first: [`id`] → [`host`] → [`auth`] → [`busy`] → the route. [`dialect`] writes
//! refusals in the words of the API that was asked.

pub mod auth;
pub mod busy;
pub mod cost;
pub mod dialect;
pub mod host;
pub mod id;
pub mod sla;
pub mod span;
pub mod thinkgate;

pub use auth::Caller;
pub use id::Seen;
