//! PHP scripts through the library: what they may do, and how each way to fail or die is told.
//! Needs `php` in the PATH, and fails without it.

mod php {
    pub mod harness;
}

use std::cell::RefCell;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use php::harness::{Bench, Lines, wait_for};
use stark::consumer::script::{BatchEnd, Exit, StartError};
use stark::consumer::{Outcome, Ran};

fn failed(reason: &str) -> Outcome {
    Outcome::Failed(reason.into())
}

#[test]
fn a_script_runs_its_jobs_in_order_and_says_done() {
    let bench = Bench::new(
        "<?php function run($worker, $data) { file_put_contents('ran', \"$data\\n\", FILE_APPEND); return true; }",
    );
    let mut script = bench.start().unwrap();
    let outcomes = bench.run_all(&mut script, &["a", "b", "c"]);
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done, Outcome::Done]);
    assert_eq!(bench.read("ran"), "a\nb\nc\n", "and in the ini's directory");
    assert_eq!((script.finished(), bench.noted()), (3, 3));
}

#[test]
fn whatever_is_returned_but_false_is_done() {
    let bench = Bench::new(
        r#"<?php function run($worker, $data) { return ['null' => null, '0' => 0, 'text' => "-FAIL\r\n", 'object' => $worker][$data]; }"#,
    );
    let mut script = bench.start().unwrap();
    let outcomes = bench.run_all(&mut script, &["null", "0", "text", "object"]);
    assert_eq!(outcomes, vec![Outcome::Done; 4]);
}

#[test]
fn false_and_whatever_is_thrown_is_a_failed_job_with_its_place() {
    let bench = Bench::new(
        r#"<?php
function run($worker, $data) {
    switch ($data) {
        case 'false': return false;
        case 'exception': throw new RuntimeException("no\r\n+OK\r\ndatabase");
        case 'error': return undefined_function();
        case 'type': return strlen([]);
        case 'anonymous': throw new class('odd') extends Exception {};
        case 'long': throw new LogicException(str_repeat('x', 1 << 20));
    }
}"#,
    );
    let mut script = bench.start().unwrap();
    let outcomes = bench.run_all(
        &mut script,
        &[
            "false",
            "exception",
            "error",
            "type",
            "anonymous",
            "long",
            "fine",
        ],
    );
    let file = bench.path("run.php");
    assert_eq!(outcomes[0], failed("run() returned false"));
    assert_eq!(
        outcomes[1],
        failed(&format!("RuntimeException: no +OK database in {file}:5"))
    );
    assert_eq!(
        outcomes[2],
        failed(&format!(
            "Error: Call to undefined function undefined_function() in {file}:6"
        ))
    );
    let Outcome::Failed(reason) = &outcomes[3] else {
        panic!("{:?}", outcomes[3])
    };
    assert!(reason.starts_with("TypeError: strlen()"), "{reason}");
    let Outcome::Failed(reason) = &outcomes[4] else {
        panic!("{:?}", outcomes[4])
    };
    assert!(reason.contains("odd in "), "{reason}");
    let Outcome::Failed(reason) = &outcomes[5] else {
        panic!("{:?}", outcomes[5])
    };
    assert!(reason.len() < 1200 && reason.ends_with("run.php:9"));
    assert_eq!(outcomes[6], Outcome::Done);
    assert_eq!(bench.noted(), 7, "failed runs count as finished too");
}

#[test]
fn payloads_arrive_byte_for_byte() {
    let mut bench = Bench::new(
        "<?php function run($worker, $data) { file_put_contents('hash', md5($data) . ' ' . strlen($data) . \"\\n\", FILE_APPEND); }",
    );
    // Room for the payload, and for moving it once as it grows.
    bench.spec.memory_limit_bytes = 128 << 20;
    let mut script = bench.start().unwrap();
    let mut large: Vec<u8> = (0..50_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    large[7..9].copy_from_slice(b"\r\n");
    let payloads: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\0".to_vec(),
        b"\r\n".to_vec(),
        b"*2\r\n$3\r\nrun\r\n$1\r\nx\r\n".to_vec(),
        (0..=255).collect(),
        vec![b'\n'; 65_536],
        large,
        b"after".to_vec(),
    ];
    let outcomes = bench.run_all(&mut script, &payloads);
    assert_eq!(outcomes, vec![Outcome::Done; payloads.len()]);
    let expected: String = payloads
        .iter()
        .map(|payload| format!("{} {}\n", bench.md5(payload), payload.len()))
        .collect();
    assert_eq!(bench.read("hash"), expected);
}

#[test]
fn a_script_that_prints_more_than_any_buffer_meets_no_deadlock() {
    let bench = Bench::new(
        "<?php function run($worker, $data) { echo str_repeat(str_repeat('y', 99) . \"\\n\", 20000); fwrite(STDOUT, str_repeat('z', 1 << 20)); fwrite(STDERR, str_repeat('w', 1 << 20)); }",
    );
    let mut script = bench.start().unwrap();
    let payloads = vec![vec![b'x'; 1 << 20]; 10];
    assert_eq!(
        bench.run_all(&mut script, &payloads),
        vec![Outcome::Done; 10]
    );
}

#[test]
fn output_of_every_shape_is_log_and_never_protocol() {
    let bench = Bench::new(
        r#"<?php
echo "while loading\n";
function init($worker) { print("in init\n"); $worker->log->addWarning('careful', ['a' => 1]); }
function run($worker, $data) {
    switch ($data) {
        case 'echo': echo "+OK\r\n-FAIL no\r\n"; break;
        case 'pieces': echo 'a'; echo 'b'; var_dump(1.5); printf('%s', 'open end'); break;
        case 'level': echo "<3>grave\n"; $worker->log->debug('fine'); $worker->log->error("two\nlines"); break;
        case 'stdout': fwrite(STDOUT, "direct\n"); file_put_contents('php://stderr', "aside\n"); break;
        case 'output': file_put_contents('php://output', "through output\n"); break;
        case 'warning': return $undefined;
        case 'long': echo str_repeat('l', 100000), "\nshort\n"; break;
        case 'binary': echo "\x1b[31m\0\xff\n"; break;
    }
}
function complete($worker) { echo "in complete\n"; register_shutdown_function(function () { echo "in shutdown"; }); }
"#,
    );
    let lines = Lines::of(&bench);
    let mut script = bench.start().unwrap();
    let jobs = [
        "echo", "pieces", "level", "stdout", "output", "warning", "long", "binary",
    ];
    assert_eq!(bench.run_all(&mut script, &jobs), vec![Outcome::Done; 8]);
    bench.complete(script).unwrap();
    let file = bench.path("run.php");
    for expected in [
        "INFO while loading".into(),
        "INFO in init".into(),
        "WARN careful {\"a\":1}".into(),
        "INFO +OK\\x0d".into(),
        "INFO abfloat(1.5)".into(),
        "INFO open end".into(),
        "ERROR grave".into(),
        "DEBUG fine".into(),
        "ERROR two".into(),
        "ERROR lines".into(),
        "INFO direct".into(),
        "WARN aside".into(),
        "INFO through output".into(),
        format!("WARN Warning: Undefined variable $undefined in {file} on line 11"),
        format!("INFO {}...", "l".repeat(8192)),
        "INFO short".into(),
        "INFO \\x1b[31m\\x00\\xff".into(),
        "INFO in complete".into(),
        "INFO in shutdown".into(),
    ] {
        assert!(lines.has(&expected), "{expected} in {:#?}", lines.all());
    }
}

#[test]
fn misused_output_buffers_disturb_nothing() {
    let bench = Bench::new(
        r#"<?php
function run($worker, $data) {
    switch ($data) {
        case 'end all': while (ob_get_level()) ob_end_clean(); break;
        case 'flush all': echo 'flushed'; while (ob_get_level()) ob_end_flush(); echo "past\n"; break;
        case 'leave open': ob_start(); echo 'kept'; ob_start(); echo "inside\n"; break;
        case 'replace': ob_end_clean(); ob_start(); echo "replaced\n"; break;
        case 'throw': ob_start(); echo "before the throw\n"; throw new Exception('x');
        case 'handler': ob_start(function ($b) { return strtoupper($b); }); echo "loud\n"; break;
        case 'clean': echo "unwanted"; ob_clean(); echo "wanted\n"; break;
        case 'flush': echo "piece"; ob_flush(); flush(); echo "wise\n"; break;
        case 'fine': echo "still heard\n"; break;
    }
}"#,
    );
    let lines = Lines::of(&bench);
    let mut script = bench.start().unwrap();
    for job in [
        "end all",
        "flush all",
        "leave open",
        "replace",
        "handler",
        "clean",
        "flush",
    ] {
        assert_eq!(
            bench.run_all(&mut script, &[job, "fine"]),
            vec![Outcome::Done; 2],
            "{job}"
        );
    }
    let outcomes = bench.run_all(&mut script, &["throw", "fine"]);
    assert!(matches!(outcomes[0], Outcome::Failed(_)));
    bench.complete(script).unwrap();
    assert_eq!(lines.count("INFO still heard"), 8, "{:#?}", lines.all());
    for expected in [
        "INFO flushed",
        "INFO past",
        "INFO keptinside",
        "INFO replaced",
        "INFO before the throw",
        "INFO LOUD",
        "INFO piecewise",
    ] {
        assert!(lines.has(expected), "{expected} in {:#?}", lines.all());
    }
}

#[test]
fn error_handlers_closed_streams_and_silence_are_the_scripts_own_affair() {
    let bench = Bench::new(
        r#"<?php
set_error_handler(function ($n, $text) { throw new ErrorException($text); });
set_exception_handler(function () { exit(9); });
error_reporting(0);
function run($worker, $data) {
    switch ($data) {
        case 'warn': return $undefined;
        case 'close': fclose(STDIN); fclose(STDOUT); fclose(STDERR); break;
        case 'duplicates': foreach ([3, 4, 5] as $n) { fclose(fopen("php://fd/$n", 'r+')); } break;
        case 'echo': echo "x\n"; break;
    }
}"#,
    );
    let mut script = bench.start().unwrap();
    let outcomes = bench.run_all(
        &mut script,
        &["warn", "close", "duplicates", "echo", "warn"],
    );
    assert!(
        matches!(&outcomes[0], Outcome::Failed(reason) if reason.starts_with("ErrorException: Undefined variable"))
    );
    assert_eq!(outcomes[1..4], vec![Outcome::Done; 3]);
    bench.complete(script).unwrap();
}

#[test]
fn the_worker_object_is_starks() {
    let bench = Bench::new(
        r#"<?php
$counter = 5;
function init(Stark\Daemon\Worker $worker) { $worker->mine = 'kept'; }
function run($worker, $data) {
    global $counter, $argv;
    $status = $worker->getStatus();
    file_put_contents('facts', json_encode([
        $worker->index, $worker->name, $worker->pid, $worker->mine, $counter++, $argv, getenv('GREETING'),
        $status->totalCount, $status->totalTime >= 0, $status->totalQPS >= 0, $status->lastActiveTime > 0,
        $status->memory > 0, ini_get('memory_limit'), getcwd() === __DIR__,
    ]));
}"#,
    );
    let mut script = bench.start().unwrap();
    bench.run_all(&mut script, &["1", "2"]);
    let expected = format!(
        r#"[3,"shop",{},"kept",6,["{}"],"hello",1,true,true,true,true,"67108864",true]"#,
        std::process::id(),
        bench.path("run.php").replace('/', "\\/")
    );
    assert_eq!(bench.read("facts"), expected);
}

#[test]
fn the_host_runs_under_opcache_too() {
    let mut bench =
        Bench::new("<?php function run($worker, $data) { if ($data) throw new Exception($data); }");
    let settings = [
        "-d",
        "opcache.enable_cli=1",
        "-d",
        "opcache.jit_buffer_size=16M",
    ];
    bench.spec.interpreter.extend(settings.map(String::from));
    for _ in 0..2 {
        let mut script = bench.start().unwrap();
        let outcomes = bench.run_all(&mut script, &["", "x"]);
        let place = bench.path("run.php");
        assert_eq!(
            outcomes,
            [Outcome::Done, failed(&format!("Exception: x in {place}:1"))]
        );
    }
}

#[test]
fn names_of_the_script_cannot_clash_with_the_hosts() {
    let bench = Bench::new(
        r#"<?php
namespace Stark\Daemon { class Worker {} }
namespace {
class Host {} class Worker {} class Log {} class Status {}
function begin() {} function serve() {} function output() {} function send() {} function request() {}
$script = $socket = $worker = $data = $request = $reply = null;
function run($worker, $data) { echo get_class($worker); return new Worker(); }
}"#,
    );
    let mut script = bench.start().unwrap();
    assert_eq!(bench.run_all(&mut script, &["x"]), [Outcome::Done]);
}

#[test]
fn a_script_can_ask_for_another_run_or_for_none_at_all() {
    let bench = Bench::new(
        r#"<?php
function run($worker, $data) {
    switch ($data) {
        case 'later': throw new Stark\Retry(1.5, "busy\r\n+OK");
        case 'odd': throw new Stark\Retry(-3);
        case 'never': throw new Stark\Bury('no such customer');
    }
}"#,
    );
    let mut script = bench.start().unwrap();
    let retry = |ms, reason: &str| Outcome::Retry {
        after: Duration::from_millis(ms),
        reason: reason.into(),
    };
    assert_eq!(
        bench.run_all(&mut script, &["later", "odd", "never", "x"]),
        [
            retry(1500, "busy +OK"),
            retry(0, ""),
            Outcome::Bury("no such customer".into()),
            Outcome::Done
        ]
    );
}

#[test]
fn a_script_that_cannot_be_loaded_is_refused_in_its_own_words() {
    for (text, words) in [
        (
            "<?php\nfunction run( {",
            "ParseError: syntax error, unexpected token \"{\", expecting variable in FILE:2",
        ),
        (
            "<?php function ruin() {}",
            "Error: no function run($worker, $data) is defined",
        ),
        (
            "<?php\n\nthrow new Exception('no config');",
            "Exception: no config in FILE:3",
        ),
        ("<?php exit(0);", "the script ended while it was loaded"),
        (
            "<?php die('no database');",
            "the script ended while it was loaded: no database",
        ),
        (
            "<?php function run() {}\nfunction run() {}",
            "Cannot redeclare run() (previously declared in FILE:1) in FILE:2",
        ),
        (
            "<?php function run() {}\nfunction init($worker) { throw new Exception('no cache'); }",
            "Exception: no cache in FILE:2",
        ),
        (
            "<?php function run() {} function init() { exit(3); }",
            "the script ended while it was loaded",
        ),
        (
            "<?php function run() {}\nfunction init() { str_repeat('x', 1 << 30); }",
            "Allowed memory size of 67108864 bytes exhausted",
        ),
    ] {
        let bench = Bench::new(text);
        let Err(StartError::Refused(refusal)) = bench.start() else {
            panic!("refused: {text}");
        };
        let words = words.replace("FILE", &bench.path("run.php"));
        assert!(refusal.starts_with(&words), "{refusal} for {text}");
    }
}

#[test]
fn a_script_that_is_not_there_is_refused() {
    let bench = Bench::new("<?php");
    std::fs::remove_file(bench.path("run.php")).unwrap();
    let Err(StartError::Refused(refusal)) = bench.start() else {
        panic!("refused");
    };
    assert!(refusal.contains("Failed opening required"), "{refusal}");
}

#[test]
fn an_interpreter_that_is_not_there_cannot_be_started() {
    let mut bench = Bench::new("<?php");
    bench.spec.interpreter = vec!["/nonexistent/php".into()];
    let error = bench.start().unwrap_err();
    assert_eq!(
        error,
        StartError::Spawn(
            "cannot start /nonexistent/php: No such file or directory (os error 2)".into()
        )
    );
}

#[test]
fn a_script_killed_while_it_loads_died() {
    let bench = Bench::new("<?php exec('kill -9 ' . getmypid()); sleep(60);");
    assert_eq!(
        bench.start().unwrap_err(),
        StartError::Died("script killed by SIGKILL".into())
    );
}

#[test]
fn a_slow_start_is_interrupted_by_an_order() {
    let bench = Bench::new(
        "<?php file_put_contents('pid', getmypid()); rename('pid', 'loading'); sleep(600); function run() {}",
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(|| bench.exists("loading"));
            bench.order_stop();
        });
        assert_eq!(bench.start().unwrap_err(), StartError::Interrupted);
    });
    assert!(bench.is_gone("loading"));
}

#[test]
fn exit_in_a_job_is_its_failure_or_crash_and_the_rest_has_not_begun() {
    for (code, reason) in [
        ("exit", "script exited in a job"),
        ("exit(0)", "script exited in a job"),
        ("die('no more')", "script exited in a job: no more"),
        ("exit(3)", "script exited in a job with status 3"),
    ] {
        let is_crash = code == "exit(3)";
        let bench = Bench::new(&format!(
            "<?php function run($worker, $data) {{ if ($data == 2) {code}; echo 'job'; }}"
        ));
        let mut script = bench.start().unwrap();
        let (end, outcomes) = bench.run(&mut script, &["1", "2", "3"]);
        assert_eq!(outcomes, [Outcome::Done]);
        let BatchEnd::Died { ended: 1, death } = end else {
            panic!("{end:?}");
        };
        assert_eq!((death.in_hand, death.is_crash()), (true, is_crash));
        assert_eq!((death.reason().as_str(), death.finished), (reason, 1));
        assert_eq!((script.finished(), bench.noted()), (1, 1));
    }
}

#[test]
fn a_fatal_error_is_a_crash_with_phps_own_words() {
    for (code, words) in [
        (
            "str_repeat('x', 1 << 30)",
            "Fatal error: Allowed memory size of 67108864 bytes exhausted",
        ),
        (
            "$all = []; while (true) $all[] = [$all]",
            "Fatal error: Allowed memory size of 67108864 bytes exhausted",
        ),
        (
            "set_time_limit(1); while (true)",
            "Fatal error: Maximum execution time of 1 second exceeded",
        ),
        (
            "trigger_error('out of ideas', E_USER_ERROR)",
            "Fatal error: out of ideas in",
        ),
    ] {
        let bench = Bench::new(&format!("<?php function run($worker, $data) {{ {code}; }}"));
        let mut script = bench.start().unwrap();
        let (end, outcomes) = bench.run(&mut script, &["1", "2"]);
        assert_eq!(outcomes, []);
        let BatchEnd::Died { ended: 0, death } = end else {
            panic!("{end:?}");
        };
        assert_eq!(death.exit, Exit::Status(255));
        assert!(death.is_crash());
        assert!(death.reason().contains(words), "{}", death.reason());
    }
}

#[test]
fn a_signal_is_a_crash() {
    for signal in ["SEGV", "ABRT", "KILL", "TERM"] {
        let bench = Bench::new(
            "<?php function run($worker, $data) { if ($data === 'fine') return; exec(\"kill -$data \" . getmypid()); sleep(60); }",
        );
        let mut script = bench.start().unwrap();
        let (end, outcomes) = bench.run(&mut script, &["fine", signal, "fine"]);
        assert_eq!(outcomes, [Outcome::Done]);
        let BatchEnd::Died { ended: 1, death } = end else {
            panic!("{end:?}");
        };
        assert!(death.is_crash() && death.in_hand);
        assert_eq!(death.reason(), format!("script killed by SIG{signal}"));
    }
}

#[test]
fn a_script_that_died_between_batches_has_nothing_in_hand() {
    let bench = Bench::new("<?php function run($worker, $data) {}");
    let mut script = bench.start().unwrap();
    assert_eq!(bench.run_all(&mut script, &["1"]), [Outcome::Done]);
    kill(script.pid(), Signal::SIGKILL).unwrap();
    wait_for(|| bench.is_zombie(script.pid()));
    let (end, outcomes) = bench.run(&mut script, &["2"]);
    assert_eq!(outcomes, []);
    let BatchEnd::Died { ended: 0, death } = end else {
        panic!("{end:?}");
    };
    assert!(!death.in_hand);
    assert_eq!(death.finished, 1);
    assert!(matches!(script.run_idle(&mut |_| {}), Err(death) if !death.in_hand));
}

#[test]
fn a_kill_in_the_midst_of_a_batch_hides_no_finished_job() {
    for round in 0..20 {
        let bench = Bench::new(
            "<?php function run($worker, $data) { file_put_contents('ran', \"$data\\n\", FILE_APPEND); }",
        );
        let mut script = bench.start().unwrap();
        let pid = script.pid();
        let jobs: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let told = RefCell::new(0);
        let end = bench.run_with(&mut script, &jobs, &mut |index, outcome| {
            assert_eq!((index, outcome), (*told.borrow(), Outcome::Done));
            *told.borrow_mut() += 1;
            if index == 10 + round * 3 {
                kill(pid, Signal::SIGKILL).unwrap();
            }
        });
        let told = told.into_inner();
        let ran = bench.read("ran").lines().count();
        let BatchEnd::Died { ended, death } = end else {
            assert_eq!((end, told, ran), (BatchEnd::All, 100, 100));
            continue;
        };
        let noted = bench.noted();
        assert_eq!(ended, told);
        assert_eq!(script.finished(), told as u64);
        assert_eq!(death.finished, noted.max(told as u64));
        assert!(noted == told as u64 || noted == told as u64 + 1);
        assert!(death.is_crash());
        // The file is written by the job: what was told has run, and of the rest only the one in hand may have.
        assert!(ran == told || ran == told + 1, "{ran} ran, {told} told");
    }
}

#[test]
fn an_order_stops_a_batch_between_runs() {
    let bench = Bench::new(
        "<?php function run($worker, $data) { file_put_contents('ran', \"$data\\n\", FILE_APPEND); usleep(2000); }",
    );
    let mut script = bench.start().unwrap();
    let jobs: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let mut told = 0;
    let end = bench.run_with(&mut script, &jobs, &mut |index, _| {
        told = index + 1;
        if index == 20 {
            bench.order_stop();
        }
    });
    let BatchEnd::Stopped { ended } = end else {
        panic!("{end:?}");
    };
    assert_eq!(ended, told);
    assert!((21..=40).contains(&ended), "{ended} of 200");
    assert_eq!(bench.read("ran").lines().count(), ended);
    bench.orders_again();
    assert_eq!(bench.run_all(&mut script, &["more"]), [Outcome::Done]);
}

#[test]
fn an_order_that_comes_before_the_batch_begins_nothing() {
    let bench = Bench::new("<?php function run($worker, $data) { touch('ran'); }");
    let mut script = bench.start().unwrap();
    bench.order_stop();
    let (end, _) = bench.run(&mut script, &["1"]);
    assert_eq!(end, BatchEnd::Stopped { ended: 0 });
    assert!(!bench.exists("ran"));
}

#[test]
fn without_a_queue_false_means_nothing_to_do() {
    let bench = Bench::new(
        "<?php $n = 0; function run($worker, $data) { global $n; if ($data !== null) exit(9); if (++$n == 3) throw new Exception('x'); if ($n == 4) exit; return $n == 1; }",
    );
    let mut script = bench.start().unwrap();
    assert_eq!(script.run_idle(&mut |_| {}), Ok(Ran::Something));
    assert_eq!(script.run_idle(&mut |_| {}), Ok(Ran::Nothing));
    assert!(
        matches!(script.run_idle(&mut |_| {}), Ok(Ran::Failed(reason)) if reason.starts_with("Exception: x in "))
    );
    let death = script.run_idle(&mut |_| {}).unwrap_err();
    assert_eq!(death.reason(), "script exited in a job");
}

#[test]
fn grandchildren_die_with_the_script() {
    for ending in ["", "exec('kill -9 ' . getmypid()); sleep(60);"] {
        let bench = Bench::new(&format!(
            "<?php function run($worker, $data) {{ exec('sleep 600 >/dev/null 2>&1 & echo $! > child.new; mv child.new child'); {ending} }}"
        ));
        let mut script = bench.start().unwrap();
        bench.run(&mut script, &["1"]);
        assert!(bench.exists("child"));
        drop(script);
        wait_for(|| bench.is_gone("child"));
    }
}

#[test]
fn a_grandchild_that_holds_every_descriptor_delays_no_end() {
    let bench = Bench::new(
        "<?php function run($worker, $data) { proc_open('setsid sh -c \"echo \\$\\$ > child.new; mv child.new child; sleep 600\"', [], $pipes); while (!file_exists('child')) { usleep(1000); clearstatcache(); } exec('kill -9 ' . getmypid()); sleep(60); }",
    );
    let mut script = bench.start().unwrap();
    let (end, _) = bench.run(&mut script, &["1"]);
    assert!(matches!(end, BatchEnd::Died { death, .. } if death.is_crash()));
    // It left our group by its own choice, so we end it here.
    let child: i32 = bench.read("child").trim().parse().unwrap();
    kill(Pid::from_raw(-child), Signal::SIGKILL).unwrap();
}

#[test]
fn a_forked_child_of_the_script_neither_answers_nor_takes_runs() {
    let bench = Bench::new(
        r#"<?php
function run($worker, $data) {
    if (!function_exists('pcntl_fork')) return;
    $pid = pcntl_fork();
    if ($pid) { pcntl_waitpid($pid, $status); file_put_contents('ran', "$data\n", FILE_APPEND); }
    else echo "child";
}"#,
    );
    let mut script = bench.start().unwrap();
    let outcomes = bench.run_all(&mut script, &["1", "2", "3"]);
    assert_eq!(outcomes, vec![Outcome::Done; 3]);
    assert_eq!(bench.noted(), 3);
}

#[test]
fn complete_is_called_and_the_script_leaves() {
    let bench = Bench::new(
        "<?php function run($worker, $data) {} function complete($worker) { file_put_contents('bye', $worker->getStatus()->totalCount); }",
    );
    let mut script = bench.start().unwrap();
    bench.run_all(&mut script, &["1", "2"]);
    bench.complete(script).unwrap();
    assert_eq!(bench.read("bye"), "2");
}

#[test]
fn a_complete_that_throws_or_exits_or_hangs_is_told() {
    for (code, words) in [
        (
            "throw new Exception('x');",
            "complete failed: Exception: x in ",
        ),
        ("exit(0);", "script left without an answer to complete"),
    ] {
        let bench = Bench::new(&format!(
            "<?php function run($worker, $data) {{}} function complete($worker) {{ {code} }}"
        ));
        let error = bench.complete(bench.start().unwrap()).unwrap_err();
        assert!(error.starts_with(words), "{error}");
    }
    let bench = Bench::new(
        "<?php function run($worker, $data) {} function complete($worker) { file_put_contents('pid', getmypid()); sleep(600); }",
    );
    let script = bench.start().unwrap();
    let error = script
        .complete(Duration::from_millis(300), &bench.orders())
        .unwrap_err();
    assert!(
        error.starts_with("script did not leave within 30"),
        "{error}"
    );
    assert!(bench.is_gone("pid"));
}

#[test]
fn an_order_ends_a_complete_that_hangs() {
    let bench = Bench::new(
        "<?php function run($worker, $data) {} function complete($worker) { touch('completing'); sleep(600); }",
    );
    let script = bench.start().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(|| bench.exists("completing"));
            bench.order_stop();
        });
        let error = script
            .complete(Duration::from_secs(600), &bench.orders())
            .unwrap_err();
        assert!(error.ends_with("killed"), "{error}");
    });
}

#[test]
fn a_hundred_and_fifty_thousand_runs_leave_the_memory_as_it_was() {
    let bench = Bench::new(
        "<?php function run($worker, $data) { if ($data === 'look') file_put_contents('memory', memory_get_usage() . \"\\n\", FILE_APPEND); $cycle = new stdClass(); $cycle->self = $cycle; return true; }",
    );
    let mut script = bench.start().unwrap();
    let jobs = vec!["x".repeat(100); 50_000];
    for _ in 0..3 {
        bench.run_all(&mut script, &jobs);
        bench.run_all(&mut script, &["look"]);
    }
    let seen = bench.read("memory");
    let seen: Vec<u64> = seen.lines().map(|line| line.parse().unwrap()).collect();
    assert!(seen[2] < seen[0] + 3_000_000, "{seen:?}");
}

#[test]
#[ignore = "a measurement: cargo test --release --test php_host -- --ignored --nocapture"]
fn runs_per_second() {
    let bench = Bench::new("<?php function run($worker, $data) { return true; }");
    let mut script = bench.start().unwrap();
    let jobs = vec!["x".repeat(100); 500];
    for _ in 0..5 {
        let begin = std::time::Instant::now();
        for _ in 0..1000 {
            bench.run_all(&mut script, &jobs);
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!("{:.0} runs/s", 500_000.0 / seconds);
    }
}

#[test]
fn any_program_may_speak_the_protocol() {
    let mut bench = Bench::new("");
    let program = r#"<?php
$socket = fopen('php://fd/' . getenv('STARK_FD'), 'r+');
fwrite($socket, "+OK\r\n");
fwrite($socket, ":1\r\n:0\r\nnonsense\r\n");
sleep(600);
"#;
    bench.make_program("speaks", program);
    let mut script = bench.start().unwrap();
    let (end, outcomes) = bench.run(&mut script, &["1", "2", "3"]);
    let BatchEnd::Died { ended, death } = end else {
        panic!("{end:?}");
    };
    assert_eq!(ended, outcomes.len());
    assert!(death.is_crash());
    assert!(
        death.reason().starts_with("script broke the protocol: "),
        "{}",
        death.reason()
    );
}
