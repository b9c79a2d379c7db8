//! `stark status`: one line for scripts, a table for people, from the pidfile's lock and `INFO`.

use std::io::IsTerminal;

use serde_json::json;

use super::answer::Answer;
use super::info::{Info, Row, percent_decoded};
use super::running;
use crate::config::Config;
use crate::daemon::{Failure, status};

/// Tells how the daemon is. What runs is known from the pidfile's lock, so that it is true also when the admin port
/// does not answer.
pub fn status(config: &Config) -> Result<Answer, Failure> {
    let name = &config.main.name;
    let stopped = || Answer {
        status: status::NOT_RUNNING,
        text: format!("{name}: not running\n").into(),
        json: json!({ "name": name, "state": "stopped" }),
    };
    let Some(pid) = running::pid(config)? else {
        return Ok(stopped());
    };
    let info = match running::info(config, pid) {
        Ok(info) => info,
        // It ended while we asked.
        Err(_) if running::pid(config)?.is_none() => return Ok(stopped()),
        Err(err) => {
            let message = format!("{name}: running, pid {pid}, but {err}");
            return Err(Failure::new(status::FAILED, message));
        }
    };
    let text = match std::io::stdout().is_terminal() {
        true => table(&info, Paint::of_this_process()),
        false => line(&info),
    };
    Ok(Answer::new(text, info.to_json()))
}

fn line(info: &Info) -> String {
    let field = |name| info.get(name).unwrap_or("?");
    format!(
        "{}: {} for {}, pid {}, port {}, {} of {} workers alive, {} busy, {} runs, {} failed\n",
        field("name"),
        field("state"),
        field("uptime_human"),
        field("pid"),
        field("port"),
        field("worker_alive"),
        field("worker_max"),
        field("worker_busy"),
        field("run_count"),
        field("run_failures"),
    )
}

/// The same line, then the queues and the workers.
fn table(info: &Info, paint: Paint) -> String {
    let mut text = line(info);
    let queues = info.queues();
    if !queues.is_empty() {
        text += "\n";
        text += &aligned(&QUEUE_HEADS, queues.iter().map(queue_cells), paint);
    }
    let workers = info.workers();
    if !workers.is_empty() {
        text += "\n";
        let mut slots = Slots::default();
        let cells = workers.iter().map(|row| worker_cells(row, &mut slots));
        text += &aligned(&WORKER_HEADS, cells, paint);
    }
    text
}

const QUEUE_HEADS: [&str; 6] = ["QUEUE", "STATE", "WAITING", "RESERVED", "DELAYED", "DEAD"];

fn queue_cells(row: &Row) -> Vec<String> {
    let count = |name| row.get(name).unwrap_or("-").to_string();
    let state = match row.get("connected") {
        Some("1") => "connected",
        _ => "away",
    };
    vec![
        percent_decoded(row.get("key").unwrap_or("?")),
        state.into(),
        count("waiting"),
        count("reserved"),
        count("delayed"),
        count("dead"),
    ]
}

const WORKER_HEADS: [&str; 10] = [
    "POOL", "SLOT", "PID", "STATE", "CORE", "RUNS", "FAILED", "RSS", "CPU", "SINCE",
];

fn worker_cells(row: &Row, slots: &mut Slots) -> Vec<String> {
    let text = |name| row.get(name).unwrap_or("?").to_string();
    let number = |name| row.number(name).unwrap_or(0);
    let absent = |name, absent| match row.get(name) {
        Some(value) if value != absent => value.to_string(),
        _ => "-".into(),
    };
    let pool = text("pool");
    let slot = slots.next_of(&pool).to_string();
    vec![
        pool,
        slot,
        absent("pid", "0"),
        text("state"),
        absent("core", "-1"),
        text("run_count"),
        text("failures"),
        bytes(number("rss")),
        time(number("cpu_ms")),
        since(number("job_ms"), number("idle_ms"), number("next_start_ms")),
    ]
}

/// INFO numbers workers on across pools; a slot is counted within its own.
#[derive(Default)]
struct Slots {
    pool: String,
    next: usize,
}

impl Slots {
    fn next_of(&mut self, pool: &str) -> usize {
        if self.pool != pool {
            (self.pool, self.next) = (pool.to_string(), 0);
        }
        self.next += 1;
        self.next - 1
    }
}

/// What the slot is about, and for how long or from when.
fn since(job_ms: u64, idle_ms: u64, next_start_ms: u64) -> String {
    match (job_ms, idle_ms, next_start_ms) {
        (0, 0, 0) => "-".into(),
        (0, 0, next) => format!("starts in {}", time(next)),
        (0, idle, _) => format!("idle {}", time(idle)),
        (job, _, _) => format!("job {}", time(job)),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..0x400 => format!("{count}B"),
        0x400..0x10_0000 => format!("{:.1}K", count as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1}M", count as f64 / 1048576.0),
        _ => format!("{:.2}G", count as f64 / 1073741824.0),
    }
}

fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Columns as wide as their widest cell; numbers to the right, words to the left.
fn aligned(heads: &[&str], rows: impl Iterator<Item = Vec<String>>, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let is_right = |column: usize| {
        let mut cells = rows.iter().map(|row| row[column].as_bytes());
        cells.all(|cell| cell == b"-" || cell.first().is_some_and(u8::is_ascii_digit))
    };
    let rights: Vec<bool> = (0..heads.len()).map(is_right).collect();
    let mut text = String::new();
    let mut add = |cells: &mut dyn Iterator<Item = &str>, is_head: bool| {
        let mut line = String::new();
        for (column, cell) in cells.enumerate() {
            let gap = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let shown = match is_head {
                true => paint.head(cell),
                false => paint.word(cell),
            };
            line += &match rights[column] {
                true => format!("{gap}{shown}  "),
                false => format!("{shown}{gap}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    };
    add(&mut heads.iter().copied(), true);
    for row in &rows {
        add(&mut row.iter().map(String::as_str), false);
    }
    text
}

/// Whether there is colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Colour,
    Plain,
}

impl Paint {
    /// Colour, unless <https://no-color.org> or the terminal says otherwise.
    fn of_this_process() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match is_set("NO_COLOR") || is_dumb {
            true => Self::Plain,
            false => Self::Colour,
        }
    }

    fn head(self, text: &str) -> String {
        self.with("1", text)
    }

    /// States speak by colour; other cells have none.
    fn word(self, text: &str) -> String {
        match text {
            "busy" | "connected" => self.with("32", text),
            "starting" | "draining" | "backoff" | "waiting" => self.with("33", text),
            "away" | "killed" => self.with("31", text),
            _ => text.to_string(),
        }
    }

    fn with(self, code: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Plain => text.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Info {
        Info::parse(concat!(
            "name:t\r\npid:812\r\nport:9008\r\nstate:running\r\nuptime_human:0d 00:01:02\r\nworker_max:3\r\n",
            "worker_alive:2\r\nworker_busy:1\r\nrun_count:1234\r\nrun_failures:3\r\n",
            "worker0:pool=t,pid=4711,generation=2,state=busy,core=0,run_count=1234,failures=3,rss=35861299,",
            "cpu_ms=61500,idle_ms=0,job_ms=310,next_start_ms=0\r\n",
            "worker1:pool=t,pid=0,generation=9,state=waiting,core=1,run_count=0,failures=0,rss=0,cpu_ms=0,",
            "idle_ms=0,job_ms=0,next_start_ms=2900\r\n",
            "worker2:pool=mail,pid=99,generation=1,state=idle,core=-1,run_count=0,failures=0,rss=700,cpu_ms=20,",
            "idle_ms=7384000,job_ms=0,next_start_ms=0\r\n",
            "queue0:key=jobs%20a,type=redis,connected=1,waiting=12,dead=3\r\nqueue1:key=b,type=redis,connected=0\r\n",
        ))
    }

    #[test]
    fn the_table_is_aligned_and_counts_slots_within_their_pool() {
        let expected = "\
t: running for 0d 00:01:02, pid 812, port 9008, 2 of 3 workers alive, 1 busy, 1234 runs, 3 failed

QUEUE   STATE      WAITING  RESERVED  DELAYED  DEAD
jobs a  connected       12         -        -     3
b       away             -         -        -     -

POOL  SLOT   PID  STATE    CORE  RUNS  FAILED    RSS    CPU  SINCE
t        0  4711  busy        0  1234       3  34.2M  1m01s  job 310ms
t        1     -  waiting     1     0       0     0B    0ms  starts in 2.9s
mail     0    99  idle        -     0       0   700B   20ms  idle 2h03m
";
        assert_eq!(table(&info(), Paint::Plain), expected);
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let colourful = table(&info(), Paint::Colour);
        assert!(
            colourful.contains("\x1b[32mbusy\x1b[0m   "),
            "{colourful:?}"
        );
        let mut plain = colourful;
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, table(&info(), Paint::Plain));
    }

    #[test]
    fn a_daemon_that_tells_little_is_shown_all_the_same() {
        let info = Info::parse("worker0:pool=t\r\nqueue0:type=redis\r\n");
        let text = table(&info, Paint::Plain);
        assert!(text.starts_with("?: ? for ?, pid ?"), "{text}");
        assert_eq!(text.lines().count(), 7, "{text}");
    }
}
