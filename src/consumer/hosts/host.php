<?php
/*
 * The PHP host: loads a script of the user's and answers the runs that stark sends. The descriptor named by STARK_FD
 * is the socket (RESP arrays in, replies out in order), the one named by STARK_PROGRESS_FD notes how many runs have
 * finished. A reply is written before the next run begins, so a death hides no finished work.
 *
 * PHP's core suffices. Everything lives in a namespace and in static members, since the script is loaded into the
 * global scope, as if php had been called with it: its globals are its own, and it cannot meet ours.
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
        return Host::status();
    }
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
            $text .= ' ' . json_encode($context, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PARTIAL_OUTPUT_ON_ERROR);
        }
        Host::log($level, $text);
    }
}

final class Host
{
    /** Bytes asked of the socket at a time. */
    const READ = 65536;
    /** One byte more than stark logs of a line, so that it sees that the line was cut. */
    const LINE = 8193;
    /** Errors after which PHP ends. */
    const FATAL = E_ERROR | E_PARSE | E_CORE_ERROR | E_COMPILE_ERROR | E_USER_ERROR | E_RECOVERABLE_ERROR;

    public static $script;
    private static $socket;
    private static $progress;
    private static $pid;
    private static $worker;
    private static $ready = false;
    private static $warned = false;

    /** Received bytes, and how far they are consumed. */
    private static $input = '';
    private static $at = 0;

    /** Our output buffer is in place; printed text whose line has not ended. */
    private static $buffering = false;
    private static $line = '';

    private static $startTime;
    private static $lastActiveTime = 0.0;
    private static $totalCount = 0;
    private static $totalTime = 0.0;

    /** Takes the descriptors over and waits to be introduced. */
    public static function begin(): void
    {
        self::$script = $_SERVER['argv'][1];
        self::$pid = getmypid();
        self::$startTime = microtime(true);
        self::$socket = fopen('php://fd/' . getenv('STARK_FD'), 'r+');
        stream_set_read_buffer(self::$socket, 0);
        stream_set_timeout(self::$socket, -1); // Waits for ever: the default is to give up after a minute.
        self::$progress = fopen('php://fd/' . getenv('STARK_PROGRESS_FD'), 'w');
        register_shutdown_function([self::class, 'end']);
        foreach (['SCRIPT_NAME', 'SCRIPT_FILENAME', 'PHP_SELF', 'PATH_TRANSLATED'] as $name) {
            $_SERVER[$name] = self::$script;
        }
        [, $facts] = self::request();
        self::$worker = new Worker(json_decode($facts, true));
        self::settleOutput();
    }

    /** The script is loaded: finds its functions and lets it prepare itself. */
    public static function prepare(): void
    {
        if (!function_exists('run')) {
            throw new \Error('no function run($worker, $data) is defined');
        }
        // Old scripts name Stark's class in their signatures; those that bring the class itself keep it.
        if (!class_exists('Stark\Daemon\Worker', false)) {
            class_alias(Worker::class, 'Stark\Daemon\Worker');
        }
        if (function_exists('init')) {
            \init(self::$worker);
        }
        self::$ready = true;
    }

    public static function refuse(\Throwable $error): void
    {
        self::$ready = true;
        self::reply('-ERR ' . self::words($error) . "\r\n");
        exit(1);
    }

    /** Answers requests until there are no more. */
    public static function serve(): void
    {
        self::reply("+OK\r\n");
        while (true) {
            $request = self::request();
            if ($request[0] === 'run') {
                $data = $request[1];
                unset($request); // The payload may be large, and run() may change its copy.
                self::run($data);
            } elseif ($request[0] === 'complete') {
                self::complete();
            } else {
                self::reply("-ERR unknown request\r\n");
            }
        }
    }

    public static function log(string $level, string $text): void
    {
        self::send(self::frame($level, substr($text, 0, 8 * self::LINE)));
    }

    public static function status(): Status
    {
        $status = new Status();
        $status->pid = self::$pid;
        $status->startTime = self::$startTime;
        $status->lastActiveTime = self::$lastActiveTime;
        $status->totalCount = self::$totalCount;
        $status->totalTime = self::$totalTime;
        $status->totalQPS = self::$totalTime > 0 ? self::$totalCount / self::$totalTime : 0;
        $status->memory = memory_get_usage(true);
        return $status;
    }

    private static function run($data): void
    {
        $began = microtime(true);
        try {
            $reply = \run(self::$worker, $data) === false ? self::refusal($data === null) : "+\r\n";
        } catch (\Throwable $error) {
            $reply = '-FAIL ' . self::words($error) . "\r\n";
        }
        self::$lastActiveTime = microtime(true);
        self::$totalTime += self::$lastActiveTime - $began;
        self::$totalCount++;
        self::reply($reply, true);
    }

    /** run() returned false: without a queue there was nothing to do, with one the job failed. */
    private static function refusal(bool $idle): string
    {
        if ($idle) {
            return ":0\r\n";
        }
        if (!self::$warned) {
            self::$warned = true;
            self::log('warning', 'run() returned false: Stark dropped such jobs, stark counts them as failed');
        }
        return "-FAIL run() returned false\r\n";
    }

    private static function complete(): void
    {
        $reply = "+OK\r\n";
        try {
            if (function_exists('complete')) {
                \complete(self::$worker);
            }
        } catch (\Throwable $error) {
            $reply = '-ERR ' . self::words($error) . "\r\n";
        }
        self::reply($reply);
        exit(0);
    }

    /** PHP ends, by whatever cause. */
    public static function end(): void
    {
        if (getmypid() !== self::$pid) {
            return;
        }
        $last = self::$line;
        self::settleOutput();
        if (!self::$ready) {
            self::$ready = true;
            $error = error_get_last();
            $words = 'the script ended while it was loaded' . ($last === '' ? '' : ": $last");
            if ($error !== null && ($error['type'] & self::FATAL)) {
                $words = "{$error['message']} in {$error['file']}:{$error['line']}";
            }
            self::send('-ERR ' . self::oneLine($words) . "\r\n");
        }
    }

    /** The next request, a list of strings and nulls. Leaves when there will be none. */
    private static function request(): array
    {
        $items = [];
        for ($count = self::number(); $count > 0; $count--) {
            $length = self::number();
            if ($length < 0) {
                $items[] = null;
                continue;
            }
            while (strlen(self::$input) - self::$at < $length + 2) {
                self::receive();
            }
            $items[] = substr(self::$input, self::$at, $length);
            self::$at += $length + 2;
        }
        return $items;
    }

    /** The number in a head line such as "*5" or "$12". */
    private static function number(): int
    {
        while (($end = strpos(self::$input, "\r\n", self::$at)) === false) {
            self::receive();
        }
        $number = (int) substr(self::$input, self::$at + 1, $end - self::$at - 1);
        self::$at = $end + 2;
        return $number;
    }

    private static function receive(): void
    {
        if (self::$at > 0) {
            self::$input = (string) substr(self::$input, self::$at);
            self::$at = 0;
        }
        $piece = fread(self::$socket, self::READ);
        if ($piece === false || ($piece === '' && feof(self::$socket))) {
            exit(0);
        }
        self::$input .= $piece;
    }

    /** Answers the request in hand; a finished run is noted first. */
    private static function reply(string $reply, bool $finished = false): void
    {
        // A script may fork: its child must neither answer nor take the next request.
        if (getmypid() !== self::$pid) {
            exit(0);
        }
        if (!self::$buffering || self::$line !== '' || ob_get_level() !== 1) {
            self::settleOutput();
        }
        if ($finished) {
            fseek(self::$progress, 0);
            if (fwrite(self::$progress, pack('P', self::$totalCount)) !== 8) {
                exit(1);
            }
        }
        if (!self::send($reply)) {
            exit(1);
        }
    }

    private static function send(string $bytes): bool
    {
        while ($bytes !== '') {
            $sent = @fwrite(self::$socket, $bytes);
            if ($sent === false) {
                return false;
            }
            $bytes = (string) substr($bytes, $sent);
        }
        return true;
    }

    private static function frame(string $level, string $text): string
    {
        return ">3\r\n\$3\r\nlog\r\n\$" . strlen($level) . "\r\n$level\r\n\$" . strlen($text) . "\r\n$text\r\n";
    }

    /** Ends the line that is still open, and puts our output buffer back in its place. */
    private static function settleOutput(): void
    {
        while (ob_get_level() > (self::$buffering ? 1 : 0) && @ob_end_flush());
        if (!self::$buffering) {
            // Called for every piece of output (chunk size 1): the log of a long job must not wait for its end.
            self::$buffering = ob_start([self::class, 'output'], 1);
        }
        if (self::$line !== '') {
            self::output("\n", 0);
        }
    }

    /** What the script prints: each line goes to the log at its end. */
    public static function output(string $bytes, int $phase): string
    {
        if (getmypid() !== self::$pid) {
            return $bytes;
        }
        if ($phase & PHP_OUTPUT_HANDLER_FINAL) {
            self::$buffering = false;
        }
        if ($phase & PHP_OUTPUT_HANDLER_CLEAN) {
            return '';
        }
        $frames = '';
        $at = 0;
        while (($end = strpos($bytes, "\n", $at)) !== false) {
            $frames .= self::frame('info', self::$line . substr($bytes, $at, min($end - $at, self::LINE)));
            self::$line = '';
            $at = $end + 1;
            if (strlen($frames) > self::READ) {
                self::send($frames);
                $frames = '';
            }
        }
        self::send($frames);
        self::$line = substr(self::$line . substr($bytes, $at, self::LINE), 0, self::LINE);
        return '';
    }

    /** An exception in one line: what, and where. */
    private static function words(\Throwable $error): string
    {
        return self::oneLine(sprintf(
            '%s: %s in %s:%d',
            get_class($error),
            substr($error->getMessage(), 0, 1000),
            $error->getFile(),
            $error->getLine()
        ));
    }

    private static function oneLine(string $text): string
    {
        return trim(preg_replace('/[\x00-\x1f\x7f]+/', ' ', substr($text, 0, 4000)));
    }
}

Host::begin();
$argv = [Host::$script];
$argc = 1;
$_SERVER['argv'] = $argv;
$_SERVER['argc'] = $argc;
try {
    require Host::$script;
    Host::prepare();
} catch (\Throwable $starkError) {
    Host::refuse($starkError);
}
Host::serve();
