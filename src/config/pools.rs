//! The pools: which there are and in which order, that they fit together, and how many workers and keys all of them
//! may have.

use std::collections::BTreeMap;

use super::check::{Check, MAX_WORKERS, given};
use super::layers::{RawConfig, RawPool, RawQueue};
use super::sections::Declared;
use super::{Pool, Program};

/// Most pools of a daemon.
pub const MAX_POOLS: usize = 256;

/// Most keys of all pools; each costs the keeper a question and each worker a list.
pub const MAX_KEYS: usize = 1024;

impl Check<'_> {
    /// The default pool, if the sections without a name say what it runs, then the others in the file's order.
    pub(super) fn pools(&mut self, raw: &RawConfig, daemon: &str) -> Vec<Pool> {
        let mut pools = Vec::new();
        // Looked at in any case: no mistake hides in what nobody inherits.
        match self.pool(daemon, &raw.base) {
            Some(pool) => pools.push(pool),
            None if raw.declared.is_empty() => {
                self.refuse_file("run: nothing to run; set run.script_file or run.builtin");
            }
            None => {}
        }
        let room = MAX_POOLS - pools.len();
        if let Some(declared) = raw.declared.get(room) {
            let why = format!("pool {}: there are more than {MAX_POOLS}", declared.name);
            self.mistakes.add(&declared.place, why);
        }
        for declared in raw.declared.iter().take(room) {
            pools.extend(self.named_pool(declared, raw, daemon));
        }
        self.limits(&pools);
        self.warn_of_shared_lists(&pools);
        pools
    }

    fn named_pool(&mut self, declared: &Declared, raw: &RawConfig, daemon: &str) -> Option<Pool> {
        let Declared { name, place } = declared;
        if name.eq_ignore_ascii_case(daemon) {
            let why = format!(
                "pool {name}: has the daemon's name, which is the default pool's; choose another, or set main.name"
            );
            self.mistakes.add(place, why);
        }
        let own = raw.pools.get(name)?;
        if let Some(queue) = &own.queue {
            self.inherited_no_queue(declared, queue, &raw.base);
        }
        let pool = self.pool(name, &own.clone().inherit(&raw.base));
        if pool.is_none() {
            let why =
                format!("pool {name}: nothing to run; set script_file or builtin in [run {name}]");
            self.mistakes.add(place, why);
        }
        pool
    }

    /// Who writes a `[queue mail]` means to have one.
    fn inherited_no_queue(&mut self, declared: &Declared, own: &RawQueue, base: &RawPool) {
        let inherited = base.queue.as_ref().and_then(|base| given(&base.r#type));
        if let (None, Some(inherited)) = (&own.r#type, inherited)
            && inherited.text.eq_ignore_ascii_case("none")
        {
            let name = &declared.name;
            let why = format!(
                "pool {name}: [queue {name}] is of no use with {} = none ({}); set queue {name}.type = redis",
                inherited.name, inherited.place
            );
            self.mistakes.add(&declared.place, why);
        }
    }

    /// None if nothing is named to run.
    fn pool(&mut self, name: &str, raw: &RawPool) -> Option<Pool> {
        let run = self.run(&raw.run);
        let is_builtin = run
            .as_ref()
            .is_some_and(|run| matches!(run.program, Program::Builtin(_)));
        let worker = self.worker(&raw.worker, if is_builtin { 0 } else { 10_000 });
        let retry = self.retry(raw);
        let queue = raw.queue.as_ref();
        let queue = queue.and_then(|queue| self.queue(queue, retry));
        let env = raw.env.iter();
        Some(Pool {
            name: name.to_owned(),
            run: run?,
            worker,
            queue,
            env: env
                .map(|(name, setting)| (name.clone(), setting.text.clone()))
                .collect(),
        })
    }

    fn limits(&mut self, pools: &[Pool]) {
        let workers: usize = pools.iter().map(|pool| pool.worker.count).sum();
        let queues = pools.iter().filter_map(|pool| pool.queue.as_ref());
        let keys: usize = queues.map(|queue| queue.keys.len()).sum();
        for (what, sum, most) in [
            (
                "worker.count: workers of all pools together",
                workers,
                MAX_WORKERS,
            ),
            ("queue.key: names in all pools together", keys, MAX_KEYS),
        ] {
            if sum > most {
                self.refuse_file(&format!("{what}: {sum} are more than {most}"));
            }
        }
    }

    /// Each job goes to whichever pool is first, which is right only if all of them can do it.
    fn warn_of_shared_lists(&mut self, pools: &[Pool]) {
        let mut takers: BTreeMap<(String, u32, &str), Vec<&str>> = BTreeMap::new();
        for pool in pools {
            let Some(queue) = &pool.queue else { continue };
            for key in &queue.keys {
                let list = (queue.address.to_string(), queue.db, key.as_str());
                takers.entry(list).or_default().push(&pool.name);
            }
        }
        for ((address, db, key), names) in takers {
            if names.len() > 1 {
                let names = names.join(", ");
                self.warn(format!(
                    "queue.key: the pools {names} take from one list, {key:?} at {address}, database {db}: \
                     each job goes to any one of them"
                ));
            }
        }
    }
}
