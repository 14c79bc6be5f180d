//! What stands around every route: who asks, from where, with what id, and whether there is still time.
//!
//! Order, outermost first: [`id`] → [`host`] → [`auth`] → [`busy`] → the route.

pub mod auth;
pub mod busy;
pub mod host;
pub mod id;

pub use auth::Caller;
pub use id::Seen;
