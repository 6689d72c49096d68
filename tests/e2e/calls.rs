//! Calls of stock clients that go on while a test changes things, and must all succeed.

use shoal_tests::{deploy::Site, stock::Stock};

use crate::stage::{PATIENCE, setting};

/// Of each of the two clients.
const CONNECTIONS: usize = 32;
const KEYS: usize = 600;
/// Calls a second of each.
const RATE: f64 = 100.0;

pub struct Calls {
    clients: Vec<Stock>,
}

impl Calls {
    pub fn start(site: &Site<'_>) -> Self {
        // The proxy of the Service learns of ready pods a little later than the operator.
        site.reachable(PATIENCE).unwrap();
        let rate = setting("E2E_RATE", RATE);
        Self { clients: site.clients(CONNECTIONS, KEYS, rate).unwrap() }
    }

    /// None has failed, and no increment was lost or done twice.
    #[track_caller]
    pub fn end(mut self) {
        assert!(self.clients.iter_mut().all(Stock::runs), "a client ended early");
        for client in self.clients {
            let told = client.end().unwrap();
            println!("{told}");
            assert!(told.flawless(), "{told}");
        }
    }
}
