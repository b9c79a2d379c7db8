//! What the tests stand on: private servers and the faults that a real server does not commit on demand.
// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod ledger;
pub mod proxy;
pub mod redis;
pub mod stark;
