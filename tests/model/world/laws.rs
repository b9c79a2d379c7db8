//! What must hold in every world, whatever has happened.

use super::{Life, MAX_ATTEMPTS, MAX_CRASHES, Worker, World};
use crate::store::Job;

impl World {
    /// What must hold in every world.
    pub fn check(&self) -> Result<(), String> {
        if self.worker == Worker::Lost && self.happened.thefts == 0 {
            return Err("a list was LOST that nobody took over".into());
        }
        let mut is_present = vec![false; self.pushed.len()];
        for (key, list) in self.store.keys.iter().enumerate() {
            let in_order: Vec<Job> = [list.reserved_jobs(), &list.waiting].concat();
            let firsts = in_order.iter().filter(|job| job.attempt == 1);
            if !firsts.is_sorted_by(|one, other| one.name < other.name) {
                return Err("a job is twice in the lists, or out of order".into());
            }
            let present: Vec<Job> = [&list.delayed, &list.dead]
                .into_iter()
                .flatten()
                .chain(&in_order)
                .copied()
                .collect();
            for job in &present {
                if std::mem::replace(&mut is_present[usize::from(job.name)], true) {
                    return Err(format!("job {} is in two places", job.name));
                }
                self.check_history(*job)?;
            }
            if list.reserved.is_some() && !list.registered {
                return Err("a reserved list is not registered".into());
            }
            let pushed = self.pushed.iter().filter(|other| **other == key).count();
            if list.processed + present.len() != pushed + list.retried + list.buried {
                return Err("a job is not settled once".into());
            }
            let spared = |job: &Job| job.attempt < MAX_ATTEMPTS && job.crashes < MAX_CRASHES;
            if list.dead.iter().any(spared) {
                return Err("a job is buried too early".into());
            }
            let is_buried = |job: usize| list.dead.iter().any(|dead| usize::from(dead.name) == job);
            let unburied = self.jobs_of(key).filter(|job| !is_buried(*job));
            let runs: Vec<u8> = unburied.map(|job| self.lives[job].runs).collect();
            if runs.windows(2).any(|pair| pair[0] == 0 && pair[1] > 0) {
                return Err("a job ran before an older one".into());
            }
        }
        for (job, life) in self.lives.iter().enumerate().take(self.pushed.len()) {
            if !is_present[job] && life.runs == life.failures {
                return Err(format!("job {job} is lost"));
            }
            let most = usize::from(MAX_ATTEMPTS + life.deaths) + self.stolen;
            if usize::from(life.runs) > most {
                return Err(format!("job {job} ran more often than it may"));
            }
        }
        let again = |life: &Life| usize::from((life.runs - life.failures).saturating_sub(1));
        let again: usize = self.lives.iter().map(again).sum();
        if again > self.happened.kills + self.happened.deaths + self.stolen {
            return Err("more jobs ran twice than workers and scripts died".into());
        }
        Ok(())
    }

    /// A history tells of nothing that was not.
    fn check_history(&self, job: Job) -> Result<(), String> {
        let life = self.lives[usize::from(job.name)];
        match job.attempt > 1 + life.failures || job.crashes > life.deaths {
            true => Err(format!("{job:?} bears marks of others: {life:?}")),
            false => Ok(()),
        }
    }

    fn jobs_of(&self, key: usize) -> impl Iterator<Item = usize> {
        (0..self.pushed.len()).filter(move |job| self.pushed[*job] == key)
    }
}
