//! What the last worker of a slot left behind: a script that may still run, and the page on which it noted its runs.
//! For whoever holds the slot's lock and is about to reclaim: the next worker, or the keeper for a slot that is no
//! more.

use super::{Identity, Page, Scoreboard};

impl Scoreboard {
    /// Ends the script of the slot's last worker, and believes what it had noted on its page.
    pub fn take_stock(&self, place: usize, page: &Page) {
        let record = self.record(place);
        // It may be about to note a job as finished: only when it is dead is the count final.
        record.script().end_group();
        record.adopt(&page.read());
        record.set_script(Identity::default());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::sync::atomic::Ordering;

    use super::super::header;
    use super::super::progress::Mark;
    use super::*;

    fn noted(finished: u64) -> super::super::Noted {
        super::super::Noted {
            finished,
            ..Default::default()
        }
    }

    #[test]
    fn a_script_that_outlived_its_worker_is_dead_before_its_page_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.board");
        let board = Scoreboard::open(&path).unwrap();
        let page = Page::open(&dir.path().join("page")).unwrap();
        let mut script = Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let record = board.record(0);
        record.set_script(Identity::of(script.id() as i32));
        record.begin_tokens(9, 2);
        record.begin_reservation(5, 0);
        std::fs::write(dir.path().join("page"), 3u64.to_le_bytes()).unwrap();
        board.take_stock(0, &page);
        assert!(script.try_wait().unwrap().is_some(), "it is dead");
        assert_eq!(record.script(), Identity::default());
        assert_eq!(record.ended_of(9, 2, 5, 10).count, 3);
    }

    #[test]
    fn scripts_and_pages_of_an_older_boot_mean_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.board");
        let board = Scoreboard::open(&path).unwrap();
        let place = board.claim("p", 0, &|_| false).unwrap();
        let record = board.record(place);
        record.set_script(Identity::of(std::process::id() as i32));
        record.begin_tokens(9, 2);
        record.begin_reservation(5, 10);
        record.end_job(5, 0, Mark::Done);
        let boot = board.words.word(header::BOOT_ID);
        boot.fetch_add(1, Ordering::Relaxed);
        let board = Scoreboard::open(&path).unwrap();
        let record = board.record(place);
        assert_eq!(record.script(), Identity::default());
        record.adopt(&noted(15));
        assert_eq!(
            record.ended_of(9, 2, 5, 10).count,
            1,
            "by its worker's word"
        );
        // Within a boot a page is believed.
        record.begin_reservation(6, 10);
        let board = Scoreboard::open(&path).unwrap();
        board.record(place).adopt(&noted(15));
        assert_eq!(board.record(place).ended_of(9, 2, 6, 10).count, 5);
    }
}
