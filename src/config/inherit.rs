//! What a named pool has from the sections without a name: each key that it does not give itself. Where an inherited
//! setting contradicts one of its own, its own replaces it; what contradicts within one section is for `check`.

use std::path::Path;

use super::check::{given, text};
use super::layers::{RawPool, RawQueue, RawRun, Section, Setting};

impl RawPool {
    /// These sections, completed by those without a name.
    pub fn inherit(self, base: &RawPool) -> RawPool {
        let mut base = base.clone();
        base.run.give_way_to(&self.run);
        if let (Some(base), Some(own)) = (&mut base.queue, &self.queue) {
            base.give_way_to(own);
        }
        let own_delivery = self.queue.as_ref().map(|queue| &queue.delivery);
        if own_delivery.is_some_and(is_at_most_once) {
            base.retry = Default::default();
        }
        let mut env = base.env;
        env.extend(self.env);
        RawPool {
            run: self.run.or(base.run),
            worker: self.worker.or(base.worker),
            queue: match (self.queue, base.queue) {
                (Some(own), Some(base)) => Some(own.or(base)),
                (own, base) => own.or(base),
            },
            retry: self.retry.or(base.retry),
            env,
        }
    }
}

impl RawRun {
    /// A pool runs one thing. The interpreter goes with the scripts of one language, and with no script it is there for
    /// all.
    fn give_way_to(&mut self, own: &RawRun) {
        let has_own = [&own.script_file, &own.command, &own.builtin]
            .into_iter()
            .any(|setting| given(setting).is_some());
        if !has_own {
            return;
        }
        let fits = match (text(&own.script_file), text(&self.script_file)) {
            (Some(own), Some(inherited)) => extension(own) == extension(inherited),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if !fits {
            self.interpreter = None;
        }
        self.script_file = None;
        self.command = None;
        self.builtin = None;
    }
}

impl RawQueue {
    /// A host of its own is another server than the inherited URL's, and a URL is the whole address. At most once, a
    /// worker holds one job: what is set for more is not for this pool.
    fn give_way_to(&mut self, own: &RawQueue) {
        if given(&own.host).is_some() {
            self.url = None;
        }
        if given(&own.url).is_some() {
            self.host = None;
            self.port = None;
            self.db = None;
            self.username = None;
            self.password = None;
        }
        if is_at_most_once(&own.delivery) {
            self.prefetch = None;
        }
    }
}

/// Whether `queue.delivery` says so.
pub fn is_at_most_once(delivery: &Option<Setting>) -> bool {
    text(delivery).is_some_and(|text| text.eq_ignore_ascii_case("at-most-once"))
}

fn extension(file: &str) -> Option<String> {
    let extension = Path::new(file).extension()?;
    Some(extension.to_string_lossy().to_ascii_lowercase())
}
