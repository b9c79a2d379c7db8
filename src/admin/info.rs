//! The text of `INFO`: sections of `field:value` lines, in the order and with the names that Stark 2 and Redis taught
//! their users. Pure: [`render`] writes down what a [`Snapshot`] holds.

use super::snapshot::{Clients, Cpu, Master, Memory, Queue, Snapshot, Stats, Worker, WorkerState};
use std::fmt::{Display, Write};
use std::time::Duration;

/// A part of `INFO`, in the order of printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What clients of Redis look for.
    Server,
    /// The daemon.
    Master,
    /// Resident memory.
    Memory,
    /// Connections to the admin port.
    Clients,
    /// The slots.
    Worker,
    /// The queues.
    Queue,
    /// Totals.
    Stats,
    /// Processor time.
    Cpu,
    /// The flat fields of Starks before 2; only when asked for by name.
    Stark,
}

impl Section {
    const ALL: [Section; 9] = [
        Self::Server,
        Self::Master,
        Self::Memory,
        Self::Clients,
        Self::Worker,
        Self::Queue,
        Self::Stats,
        Self::Cpu,
        Self::Stark,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Master => "Master",
            Self::Memory => "Memory",
            Self::Clients => "Clients",
            Self::Worker => "Worker",
            Self::Queue => "Queue",
            Self::Stats => "Stats",
            Self::Cpu => "CPU",
            Self::Stark => "Stark",
        }
    }

    fn is_named_by(self, name: &[u8]) -> bool {
        let groups: [&[u8]; 3] = [b"default", b"all", b"everything"];
        name.eq_ignore_ascii_case(self.title().as_bytes())
            || (self != Self::Stark && groups.iter().any(|group| name.eq_ignore_ascii_case(group)))
    }
}

/// The sections that the arguments of `INFO` name; all but `stark` without arguments. Unknown names select nothing, as in
/// Redis.
pub fn select(names: &[Vec<u8>]) -> Vec<Section> {
    let mut sections = Section::ALL.to_vec();
    match names {
        [] => sections.retain(|section| *section != Section::Stark),
        _ => sections.retain(|section| names.iter().any(|name| section.is_named_by(name))),
    }
    sections
}

/// The sections as text, CRLF after each line and an empty line between them.
pub fn render(snapshot: &Snapshot, sections: &[Section]) -> String {
    let mut text = Text(String::new());
    for section in sections {
        text.head(section.title());
        match section {
            Section::Server => server(&mut text, &snapshot.master),
            Section::Master => master(&mut text, &snapshot.master),
            Section::Memory => memory(&mut text, snapshot.memory),
            Section::Clients => clients(&mut text, snapshot.clients),
            Section::Worker => workers(&mut text, snapshot),
            Section::Queue => queues(&mut text, &snapshot.queues),
            Section::Stats => stats(&mut text, snapshot),
            Section::Cpu => cpu(&mut text, snapshot.cpu),
            Section::Stark => stark(&mut text, snapshot),
        }
    }
    text.0
}

/// The text so far.
struct Text(String);

impl Text {
    fn head(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\r\n" };
        self.push(format_args!("{gap}# {title}\r\n"));
    }

    /// A line break in a path or a name must not forge a field: what would end the line becomes `?`.
    fn field(&mut self, name: impl Display, value: impl Display) {
        self.push(format_args!("{name}:"));
        let start = self.0.len();
        self.push(format_args!("{value}"));
        if self.0[start..].contains(['\r', '\n']) {
            let value = self.0.split_off(start);
            self.0.push_str(&value.replace(['\r', '\n'], "?"));
        }
        self.0.push_str("\r\n");
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.0
            .write_fmt(arguments)
            .expect("a String takes all that is written");
    }
}

fn server(text: &mut Text, master: &Master) {
    text.field("redis_version", &master.version);
    text.field("process_id", master.pid);
    text.field("tcp_port", master.port);
    text.field("loading", 0);
}

fn master(text: &mut Text, master: &Master) {
    text.field("name", &master.name);
    text.field("version", &master.version);
    text.field("pid", master.pid);
    text.field("state", master.state.name());
    text.field("host", &master.host);
    text.field("port", master.port);
    text.field("config_file", &master.config_file);
    text.field("started_at", &master.started_at);
    text.field("uptime_in_seconds", master.uptime.as_secs());
    text.field("uptime_human", human_time(master.uptime));
    text.field("node_id", &master.node_id);
}

fn memory(text: &mut Text, memory: Memory) {
    text.field("used_memory", memory.used_bytes);
    text.field("used_memory_human", human_bytes(memory.used_bytes));
    text.field("used_memory_master", memory.master_bytes);
}

fn clients(text: &mut Text, clients: Clients) {
    text.field("connected_clients", clients.connected);
    text.field("blocked_clients", 0);
    text.field("max_clients", clients.max);
}

fn workers(text: &mut Text, snapshot: &Snapshot) {
    let workers = &snapshot.workers;
    let count = |state| workers.iter().filter(|w| w.state == state).count();
    text.field("worker_max", workers.len());
    text.field("worker_alive", alive(workers));
    text.field("worker_busy", count(WorkerState::Busy));
    text.field("worker_idle", count(WorkerState::Idle));
    text.field("worker_total", snapshot.totals.spawned);
    text.field("workers_recycled", snapshot.totals.recycled);
    text.field("workers_crashed", snapshot.totals.crashed);
    for (number, worker) in workers.iter().enumerate() {
        text.field(format_args!("worker{number}"), worker);
    }
}

fn alive(workers: &[Worker]) -> usize {
    workers.iter().filter(|worker| worker.pid.is_some()).count()
}

/// One line of `key=value`; a slot without process has pid 0, one that is not pinned core -1.
impl Display for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pid = self.pid.unwrap_or(0);
        let core = self.core.map_or(-1, |core| core as i64);
        write!(f, "pool={},pid={pid},", self.pool)?;
        write!(f, "generation={},", self.generation)?;
        write!(f, "state={},core={core},", self.state.name())?;
        write!(f, "run_count={},", self.run_count)?;
        write!(f, "failures={},", self.failures)?;
        write!(f, "rss={},cpu_ms={},", self.rss_bytes, self.cpu_ms)?;
        write!(f, "idle_ms={},job_ms={},", self.idle_ms, self.job_ms)?;
        write!(f, "next_start_ms={}", self.next_start_ms)
    }
}

fn queues(text: &mut Text, queues: &[Queue]) {
    for (number, queue) in queues.iter().enumerate() {
        text.field(format_args!("queue{number}"), queue);
    }
}

/// One line of `key=value`; what is not known is left out.
impl Display for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connected = u8::from(self.is_connected);
        write!(f, "key={},", percent_encoded(&self.key))?;
        write!(f, "type={},connected={connected}", self.kind)?;
        let ms = |time: Option<Duration>| time.map(|time| time.as_millis() as u64);
        let figures = [
            ("waiting", self.waiting),
            ("reserved", self.reserved),
            ("delayed", self.delayed),
            ("dead", self.dead),
            ("oldest_ms", ms(self.oldest)),
            ("sampled_ms_ago", ms(self.sampled_ago)),
        ];
        for (name, figure) in figures {
            if let Some(figure) = figure {
                write!(f, ",{name}={figure}")?;
            }
        }
        Ok(())
    }
}

fn stats(text: &mut Text, snapshot: &Snapshot) {
    let (stats, clients) = (&snapshot.stats, &snapshot.clients);
    text.field("run_count", stats.run_count);
    text.field("run_failures", stats.run_failures);
    text.field("run_seconds", decimal_seconds(stats.run_time));
    text.field("run_qps", format_args!("{:.2}", stats.qps()));
    text.field(
        "instantaneous_runs_per_sec",
        format_args!("{:.0}", stats.runs_per_second),
    );
    let us = |time: Option<Duration>| time.unwrap_or_default().as_micros();
    text.field("run_usec_p50", us(stats.run_p50));
    text.field("run_usec_p99", us(stats.run_p99));
    text.field("jobs_retried", stats.jobs_retried);
    text.field("jobs_buried", stats.jobs_buried);
    text.field("jobs_reclaimed", stats.jobs_reclaimed);
    text.field("stalls", stats.stalls);
    text.field("total_connections_received", clients.connections_received);
    text.field("total_commands_processed", clients.commands_processed);
}

impl Stats {
    /// Runs per second of work, as Stark counted: what one worker would do that never waits.
    fn qps(&self) -> f64 {
        match self.run_time.is_zero() {
            true => 0.0,
            false => self.run_count as f64 / self.run_time.as_secs_f64(),
        }
    }
}

fn cpu(text: &mut Text, cpu: Cpu) {
    text.field("used_cpu_sys", decimal_seconds(cpu.sys));
    text.field("used_cpu_user", decimal_seconds(cpu.user));
    text.field("used_cpu_sys_children", decimal_seconds(cpu.sys_children));
    text.field("used_cpu_user_children", decimal_seconds(cpu.user_children));
}

fn stark(text: &mut Text, snapshot: &Snapshot) {
    let (master, stats) = (&snapshot.master, &snapshot.stats);
    text.field("host", &master.host);
    text.field("port", master.port);
    text.field("daemon_name", &master.name);
    text.field("start_time", &master.started_at);
    text.field("max_worker", snapshot.workers.len());
    text.field("total_count", stats.run_count);
    text.field("total_time", decimal_seconds(stats.run_time));
    text.field("total_qps", format_args!("{:.2}", stats.qps()));
    text.field("total_memory", snapshot.memory.used_bytes);
    text.field("total_worker_client", alive(&snapshot.workers));
    text.field("total_manage_client", snapshot.clients.connected);
}

/// As Redis writes it: `512B`, `1.02M`.
fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64 / 1024.0;
    if value < 1.0 {
        return format!("{bytes}B");
    }
    let mut units = ["K", "M", "G", "T", "P"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.2}{unit}")
}

fn human_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    format!("{days}d {hours:02}:{minutes:02}:{:02}", seconds % 60)
}

fn decimal_seconds(time: Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

/// A key may hold any bytes, among them those that separate fields.
fn percent_encoded(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~:/{}".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes all that is written");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{MasterState, Totals};
    use super::*;

    fn worker(state: WorkerState, pid: Option<u32>, core: Option<usize>) -> Worker {
        Worker {
            pool: "mail".into(),
            pid,
            generation: 2,
            state,
            core,
            run_count: 10,
            failures: 1,
            rss_bytes: 4096,
            cpu_ms: 20,
            idle_ms: 3,
            job_ms: 0,
            next_start_ms: 0,
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            master: Master {
                name: "mail".into(),
                version: "0.1.0".into(),
                pid: 812,
                state: MasterState::Running,
                host: "127.0.0.1".into(),
                port: 9008,
                config_file: "/srv/mail.ini".into(),
                started_at: "2026-01-05 10:11:12".into(),
                uptime: Duration::from_secs(93_784),
                node_id: "n1".into(),
            },
            memory: Memory {
                used_bytes: 1_069_548,
                master_bytes: 2048,
            },
            clients: Clients {
                connected: 1,
                max: 128,
                connections_received: 5,
                commands_processed: 9,
            },
            workers: vec![
                worker(WorkerState::Idle, Some(813), Some(0)),
                worker(WorkerState::Waiting, None, None),
            ],
            totals: Totals {
                spawned: 4,
                recycled: 1,
                crashed: 1,
            },
            queues: vec![
                Queue {
                    key: b"test:redis".to_vec(),
                    kind: "redis",
                    is_connected: true,
                    waiting: Some(7),
                    reserved: Some(2),
                    delayed: Some(1),
                    dead: Some(0),
                    oldest: Some(Duration::from_millis(1500)),
                    sampled_ago: Some(Duration::from_millis(40)),
                },
                Queue {
                    key: b"a,b=\xff\r\n%".to_vec(),
                    kind: "redis",
                    is_connected: false,
                    waiting: None,
                    reserved: None,
                    delayed: None,
                    dead: None,
                    oldest: None,
                    sampled_ago: None,
                },
            ],
            stats: Stats {
                run_count: 20,
                run_failures: 2,
                run_time: Duration::from_millis(2500),
                runs_per_second: 3.6,
                run_p50: Some(Duration::from_micros(1200)),
                run_p99: Some(Duration::from_millis(90)),
                jobs_reclaimed: 1,
                jobs_retried: 3,
                jobs_buried: 2,
                stalls: 0,
            },
            cpu: Cpu {
                sys: Duration::from_micros(1_000_001),
                ..Cpu::default()
            },
        }
    }

    const DEFAULT: &str = "\
# Server
redis_version:0.1.0
process_id:812
tcp_port:9008
loading:0

# Master
name:mail
version:0.1.0
pid:812
state:running
host:127.0.0.1
port:9008
config_file:/srv/mail.ini
started_at:2026-01-05 10:11:12
uptime_in_seconds:93784
uptime_human:1d 02:03:04
node_id:n1

# Memory
used_memory:1069548
used_memory_human:1.02M
used_memory_master:2048

# Clients
connected_clients:1
blocked_clients:0
max_clients:128

# Worker
worker_max:2
worker_alive:1
worker_busy:0
worker_idle:1
worker_total:4
workers_recycled:1
workers_crashed:1
worker0:pool=mail,pid=813,generation=2,state=idle,core=0,run_count=10,failures=1,rss=4096,cpu_ms=20,idle_ms=3,job_ms=0,next_start_ms=0
worker1:pool=mail,pid=0,generation=2,state=waiting,core=-1,run_count=10,failures=1,rss=4096,cpu_ms=20,idle_ms=3,job_ms=0,next_start_ms=0

# Queue
queue0:key=test:redis,type=redis,connected=1,waiting=7,reserved=2,delayed=1,dead=0,oldest_ms=1500,sampled_ms_ago=40
queue1:key=a%2Cb%3D%FF%0D%0A%25,type=redis,connected=0

# Stats
run_count:20
run_failures:2
run_seconds:2.500000
run_qps:8.00
instantaneous_runs_per_sec:4
run_usec_p50:1200
run_usec_p99:90000
jobs_retried:3
jobs_buried:2
jobs_reclaimed:1
stalls:0
total_connections_received:5
total_commands_processed:9

# CPU
used_cpu_sys:1.000001
used_cpu_user:0.000000
used_cpu_sys_children:0.000000
used_cpu_user_children:0.000000
";

    fn info(names: &[&str]) -> String {
        let names: Vec<_> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        render(&snapshot(), &select(&names))
    }

    #[test]
    fn every_field_has_its_name_and_place() {
        assert_eq!(info(&[]), DEFAULT.replace('\n', "\r\n"));
    }

    #[test]
    fn sections_are_chosen_by_name_in_any_case_and_printed_once_in_order() {
        let memory = "# Memory\r\nused_memory:1069548\r\nused_memory_human:1.02M\r\nused_memory_master:2048\r\n";
        let clients =
            "# Clients\r\nconnected_clients:1\r\nblocked_clients:0\r\nmax_clients:128\r\n";
        assert_eq!(info(&["MEMORY"]), memory);
        assert_eq!(
            info(&["clients", "memory", "Memory"]),
            format!("{memory}\r\n{clients}")
        );
        assert_eq!(info(&["nosuch"]), "");
        assert_eq!(info(&["nosuch", "memory"]), memory);
        for name in ["default", "all", "EVERYTHING"] {
            assert_eq!(info(&[name]), info(&[]));
        }
    }

    #[test]
    fn the_flat_fields_of_older_starks_come_only_when_asked_for() {
        let flat = "\
# Stark
host:127.0.0.1
port:9008
daemon_name:mail
start_time:2026-01-05 10:11:12
max_worker:2
total_count:20
total_time:2.500000
total_qps:8.00
total_memory:1069548
total_worker_client:1
total_manage_client:1
";
        assert_eq!(info(&["stark"]), flat.replace('\n', "\r\n"));
        assert!(!info(&["everything"]).contains("daemon_name"));
        assert!(info(&["all", "stark"]).ends_with(&format!("\r\n{}", info(&["stark"]))));
    }

    #[test]
    fn a_line_break_in_a_path_cannot_forge_a_field() {
        let mut snapshot = snapshot();
        snapshot.master.config_file = "/srv/a\r\nstate:paused".into();
        let text = render(&snapshot, &[Section::Master]);
        assert!(
            text.contains("config_file:/srv/a??state:paused\r\n"),
            "{text}"
        );
    }

    #[test]
    fn nothing_run_yet_is_no_division_by_zero() {
        let text = render(&Snapshot::default(), &select(&[]));
        assert!(text.contains("run_qps:0.00\r\n"), "{text}");
        assert!(text.contains("# Queue\r\n\r\n# Stats"), "{text}");
    }

    #[test]
    fn sizes_and_times_are_written_for_people() {
        let sizes = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (1_069_548, "1.02M"),
            (5 << 30, "5.00G"),
            (u64::MAX, "16384.00P"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(human_bytes(bytes), text);
        }
        assert_eq!(human_time(Duration::ZERO), "0d 00:00:00");
        assert_eq!(human_time(Duration::from_secs(86_399)), "0d 23:59:59");
    }
}
