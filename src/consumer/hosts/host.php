<?php
/*
 * The PHP host: loads a script of the user's and answers the runs that stark sends. The descriptor named by STARK_FD
 * is the socket (RESP arrays in, replies out in order), the one named by STARK_PROGRESS_FD notes how many runs have
 * finished. A reply is written before the next run begins, so a death hides no finished work.
 *
 * PHP's core suffices. Everything lives in a namespace and hangs on a static member, since the script is loaded into
 * the global scope, as if php had been called with it: its globals are its own, and it cannot meet ours.
 */

namespace StarkHost;

/** What the script gets as $worker; it may hang properties of its own on it. */
#[\AllowDynamicProperties]
class Worker
{
    public $index;
    public $name;
    public $pid;
    public $log;

    public function __construct(array $facts)
    {
        $this->index = $facts['index'];
        $this->name = $facts['name'];
        $this->pid = $facts['pid'];
        $this->log = new Log();
    }

    public function getStatus(): Status
    {
        return Host::$host->status();
    }
}

/** Thrown by run() as Stark\Retry: run the job again, not before so many seconds have passed. */
class Retry extends \Exception
{
    public $after;

    public function __construct($after, string $reason = '', ?\Throwable $previous = null)
    {
        parent::__construct($reason, 0, $previous);
        $this->after = max(0.0, (float) $after);
    }
}

/** Thrown by run() as Stark\Bury: set the job aside for good. */
class Bury extends \Exception
{
}

/** Stark's figures of this script: counts, seconds, bytes. */
class Status
{
    public $pid;
    public $startTime;
    public $lastActiveTime;
    public $totalCount;
    public $totalTime;
    public $totalQPS;
    public $memory;
}

/** Monolog's methods, new (info) and old (addInfo), by name. */
class Log
{
    const LEVELS = [
        'debug' => 'debug', 'info' => 'info', 'notice' => 'info', 'warning' => 'warning', 'warn' => 'warning',
        'error' => 'error', 'err' => 'error', 'critical' => 'error', 'crit' => 'error', 'alert' => 'error',
        'emergency' => 'error', 'emerg' => 'error',
    ];

    public function __call($method, $arguments)
    {
        $name = strtolower($method);
        $level = self::LEVELS[strncmp($name, 'add', 3) ? $name : substr($name, 3)] ?? null;
        if ($level === null) {
            throw new \BadMethodCallException("the log has no method $method");
        }
        $this->write($level, ...$arguments);
        return true;
    }

    /** PSR-3: the level comes first. */
    public function log($level, $message, $context = [])
    {
        $this->write(self::LEVELS[strtolower((string) $level)] ?? 'info', $message, $context);
    }

    private function write($level, $message = '', $context = [])
    {
        $text = (string) $message;
        if ($context !== []) {
            $flags = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PARTIAL_OUTPUT_ON_ERROR;
            $text .= ' ' . json_encode($context, $flags);
        }
        Host::$host->log($level, $text);
    }
}

final class Host
{
    /** Bytes asked of the socket at a time. */
    const READ = 65536;
    /** One byte more than stark logs of a line, so that it sees that the line was cut. */
    const LINE = 8193;
    /** Failed runs that are noted; the oldest ones are overwritten. */
    const FAILURES = 1024;
    /** Errors after which PHP ends. */
    const FATAL = E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_RECOVERABLE_ERROR;

    public static $host;
    public $script;
    private $socket;
    private $progress;
    private $pid;
    private $worker;
    private $ready = false;
    private $warned = false;

    /** Received bytes, and how far they are consumed. */
    private $input = '';
    private $at = 0;

    /** Our output buffer is in place; printed text whose line has not ended. */
    private $buffering = false;
    private $line = '';

    private $startTime;
    private $lastActiveTime = 0.0;
    private $totalCount = 0;
    private $totalTime = 0.0;
    private $failures = 0;

    /** Bytes of memory, as PHP counts them, that stark is told of, once. */
    private $full;

    /** Takes the descriptors over and waits to be introduced. */
    public function begin(): void
    {
        $this->script = $_SERVER['argv'][1];
        $this->pid = getmypid();
        $this->startTime = microtime(true);
        $this->full = $this->bytes(ini_get('memory_limit')) / 5 * 4;
        $this->socket = fopen('php://fd/' . getenv('STARK_FD'), 'r+');
        stream_set_read_buffer($this->socket, 0);
        stream_set_timeout($this->socket, -1); // Waits for ever: the default is to give up after a minute.
        $this->progress = fopen('php://fd/' . getenv('STARK_PROGRESS_FD'), 'w');
        register_shutdown_function([$this, 'end']);
        foreach (['SCRIPT_NAME', 'SCRIPT_FILENAME', 'PHP_SELF', 'PATH_TRANSLATED'] as $name) {
            $_SERVER[$name] = $this->script;
        }
        [, $facts] = $this->request();
        $this->worker = new Worker(json_decode($facts, true));
        $this->settleOutput();
    }

    /** The script is loaded: finds its functions and lets it prepare itself. */
    public function prepare(): void
    {
        if (!function_exists('run')) {
            throw new \Error('no function run($worker, $data) is defined');
        }
        // Old scripts name Stark's class in their signatures; those that bring the class itself keep it.
        if (!class_exists('Stark\Daemon\Worker', false)) {
            class_alias(Worker::class, 'Stark\Daemon\Worker');
        }
        if (function_exists('init')) {
            \init($this->worker);
        }
        $this->ready = true;
    }

    public function refuse(\Throwable $error): void
    {
        $this->ready = true;
        $this->reply('-ERR ' . $this->words($error) . "\r\n");
        exit(1);
    }

    /** Answers requests until there are no more. */
    public function serve(): void
    {
        $this->reply("+OK\r\n");
        while (true) {
            $request = $this->request();
            if ($request[0] === 'run') {
                $data = $request[1];
                unset($request); // The payload may be large, and run() may change its copy.
                $this->run($data);
            } elseif ($request[0] === 'complete') {
                $this->complete();
            } else {
                $this->reply("-ERR unknown request\r\n");
            }
        }
    }

    public function log(string $level, string $text): void
    {
        $this->send($this->frame($level, substr($text, 0, 8 * self::LINE)));
    }

    public function status(): Status
    {
        $status = new Status();
        $status->pid = $this->pid;
        $status->startTime = $this->startTime;
        $status->lastActiveTime = $this->lastActiveTime;
        $status->totalCount = $this->totalCount;
        $status->totalTime = $this->totalTime;
        $status->totalQPS = $this->totalTime > 0 ? $this->totalCount / $this->totalTime : 0;
        $status->memory = memory_get_usage(true);
        return $status;
    }

    private function run($data): void
    {
        $began = microtime(true);
        try {
            $reply = \run($this->worker, $data) === false ? $this->refusal($data === null) : "+\r\n";
        } catch (Retry $wish) {
            $reply = sprintf("-RETRY %.3F %s\r\n", $wish->after, $this->oneLine($wish->getMessage()));
        } catch (Bury $wish) {
            $reply = '-BURY ' . $this->oneLine($wish->getMessage()) . "\r\n";
        } catch (\Throwable $error) {
            $reply = '-FAIL ' . $this->words($error) . "\r\n";
        }
        $this->lastActiveTime = microtime(true);
        $this->totalTime += $this->lastActiveTime - $began;
        $this->totalCount++;
        // Of memory that PHP counts, part may never have been touched: the kernel, and so stark, counts less.
        if ($this->full > 0 && memory_get_usage(true) > $this->full) {
            $this->full = 0;
            $bytes = (string) memory_get_usage(true);
            $this->send(">2\r\n\$6\r\nmemory\r\n\$" . strlen($bytes) . "\r\n$bytes\r\n");
        }
        $this->reply($reply, true);
    }

    /** The bytes that a limit of PHP's means; not more than 0: no limit. */
    private function bytes(string $limit): int
    {
        return (int) $limit * (['K' => 1 << 10, 'M' => 1 << 20, 'G' => 1 << 30][strtoupper(substr($limit, -1))] ?? 1);
    }

    /** run() returned false: without a queue there was nothing to do, with one the job failed. */
    private function refusal(bool $idle): string
    {
        if ($idle) {
            return ":0\r\n";
        }
        if (!$this->warned) {
            $this->warned = true;
            $this->log('warning', 'run() returned false: Stark dropped such jobs, stark counts them as failed');
        }
        return "-FAIL run() returned false\r\n";
    }

    private function complete(): void
    {
        $reply = "+OK\r\n";
        try {
            if (function_exists('complete')) {
                \complete($this->worker);
            }
        } catch (\Throwable $error) {
            $reply = '-ERR ' . $this->words($error) . "\r\n";
        }
        $this->reply($reply);
        exit(0);
    }

    /** PHP ends, by whatever cause. */
    public function end(): void
    {
        if (getmypid() !== $this->pid) {
            return;
        }
        $last = $this->line;
        $this->settleOutput();
        if (!$this->ready) {
            $this->ready = true;
            $error = error_get_last();
            $words = 'the script ended while it was loaded' . ($last === '' ? '' : ": $last");
            if ($error !== null && ($error['type'] & self::FATAL)) {
                $words = "{$error['message']} in {$error['file']}:{$error['line']}";
            }
            $this->send('-ERR ' . $this->oneLine($words) . "\r\n");
        }
    }

    /** The next request, a list of strings and nulls. Leaves when there will be none. */
    private function request(): array
    {
        $items = [];
        for ($count = $this->number(); $count > 0; $count--) {
            $length = $this->number();
            $end = $this->at + $length + 2;
            if ($length < 0) {
                $items[] = null;
            } elseif ($end <= strlen($this->input)) {
                $items[] = substr($this->input, $this->at, $length);
                $this->at = $end;
            } else {
                $items[] = $this->text($length);
            }
        }
        return $items;
    }

    /**
     * A string that is not there in full, and the line end behind it. It is gathered in one place: of a large one
     * there may be no room for two.
     */
    private function text(int $length): string
    {
        $text = (string) substr($this->input, $this->at, $length);
        $this->at += strlen($text);
        while (($missing = $length - strlen($text)) > 0) {
            $this->receive();
            $piece = $missing < strlen($this->input) ? substr($this->input, 0, $missing) : $this->input;
            $text .= $piece;
            $this->at = strlen($piece);
        }
        while (strlen($this->input) - $this->at < 2) {
            $this->receive();
        }
        $this->at += 2;
        return $text;
    }

    /** The number in a head line such as "*5" or "$12". */
    private function number(): int
    {
        while (($end = strpos($this->input, "\r\n", $this->at)) === false) {
            $this->receive();
        }
        $number = (int) substr($this->input, $this->at + 1, $end - $this->at - 1);
        $this->at = $end + 2;
        return $number;
    }

    private function receive(): void
    {
        if ($this->at > 0) {
            $this->input = (string) substr($this->input, $this->at);
            $this->at = 0;
        }
        $piece = fread($this->socket, self::READ);
        if ($piece === false || ($piece === '' && feof($this->socket))) {
            exit(0);
        }
        $this->input .= $piece;
    }

    /** Answers the request in hand; a finished run is noted first, and before that, that it failed. */
    private function reply(string $reply, bool $finished = false): void
    {
        // A script may fork: its child must neither answer nor take the next request.
        if (getmypid() !== $this->pid) {
            exit(0);
        }
        if (!$this->buffering || $this->line !== '' || ob_get_level() !== 1) {
            $this->settleOutput();
        }
        if ($finished) {
            $noted = true;
            if ($reply[0] === '-') {
                $place = $this->failures++ % self::FAILURES;
                $noted = $this->note(16 + 8 * $place, $this->totalCount) &&
                    $this->note(8, min($this->failures, self::FAILURES));
            }
            if (!$noted || !$this->note(0, $this->totalCount)) {
                exit(1);
            }
        }
        if (!$this->send($reply)) {
            exit(1);
        }
    }

    private function note(int $offset, int $number): bool
    {
        fseek($this->progress, $offset);
        return fwrite($this->progress, pack('P', $number)) === 8;
    }

    private function send(string $bytes): bool
    {
        while ($bytes !== '') {
            $sent = @fwrite($this->socket, $bytes);
            if ($sent === false) {
                return false;
            }
            $bytes = (string) substr($bytes, $sent);
        }
        return true;
    }

    private function frame(string $level, string $text): string
    {
        return ">3\r\n\$3\r\nlog\r\n\$" . strlen($level) . "\r\n$level\r\n\$" . strlen($text) . "\r\n$text\r\n";
    }

    /** Ends the line that is still open, and puts our output buffer back in its place. */
    private function settleOutput(): void
    {
        while (ob_get_level() > ($this->buffering ? 1 : 0) && @ob_end_flush());
        if (!$this->buffering) {
            // Called for every piece of output (chunk size 1): the log of a long job must not wait for its end.
            $this->buffering = ob_start([$this, 'output'], 1);
        }
        if ($this->line !== '') {
            $this->output("\n", 0);
        }
    }

    /** What the script prints: each line goes to the log at its end. */
    public function output(string $bytes, int $phase): string
    {
        if (getmypid() !== $this->pid) {
            return $bytes;
        }
        if ($phase & PHP_OUTPUT_HANDLER_CLEAN) {
            $bytes = '';
        }
        if ($phase & PHP_OUTPUT_HANDLER_FINAL) {
            $this->buffering = false;
            $bytes .= $this->line . $bytes === '' ? '' : "\n"; // Nothing will come to end the line.
        }
        $frames = '';
        $at = 0;
        while (($end = strpos($bytes, "\n", $at)) !== false) {
            $frames .= $this->frame('info', $this->line . substr($bytes, $at, min($end - $at, self::LINE)));
            $this->line = '';
            $at = $end + 1;
            if (strlen($frames) > self::READ) {
                $this->send($frames);
                $frames = '';
            }
        }
        $this->send($frames);
        $this->line = substr($this->line . substr($bytes, $at, self::LINE), 0, self::LINE);
        return '';
    }

    /** An exception in one line: what, and where. */
    private function words(\Throwable $error): string
    {
        return $this->oneLine(sprintf(
            '%s: %s in %s:%d',
            get_class($error),
            substr($error->getMessage(), 0, 1000),
            $error->getFile(),
            $error->getLine()
        ));
    }

    private function oneLine(string $text): string
    {
        return trim(preg_replace('/[\x00-\x1f\x7f]+/', ' ', substr($text, 0, 4000)));
    }
}

class_alias(Retry::class, 'Stark\Retry');
class_alias(Bury::class, 'Stark\Bury');
Host::$host = new Host();
Host::$host->begin();
$argv = [Host::$host->script];
$argc = 1;
$_SERVER['argv'] = $argv;
$_SERVER['argc'] = $argc;
try {
    require Host::$host->script;
    Host::$host->prepare();
} catch (\Throwable $starkError) {
    Host::$host->refuse($starkError);
}
Host::$host->serve();
