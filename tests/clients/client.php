<?php
// phpredis speaks with the admin port: client.php HOST PORT SOCKET. Prints `ok` when all is as its users expect.

[, $host, $port, $socket] = $argv;

function expect(bool $holds, string $what, mixed $found = null): void
{
    if (!$holds) {
        fwrite(STDERR, "$what: " . var_export($found, true) . "\n");
        exit(1);
    }
}

function connect(mixed $password): Redis
{
    global $host, $port;
    $redis = new Redis();
    $redis->connect($host, (int) $port, 30);
    expect($redis->auth($password) === true, 'auth');
    return $redis;
}

function looks(Redis $redis): void
{
    expect($redis->ping() === true, 'ping');
    expect($redis->ping('hi') === 'hi', 'ping with a message');
    expect($redis->echo("a b\r\n\0") === "a b\r\n\0", 'echo');
    $info = $redis->info();
    expect($info['name'] === 't' && (int) $info['worker_max'] === 2, 'info', $info);
    expect(isset($redis->info('cpu')['used_cpu_sys']), 'info of a section');
    expect($redis->select(0) === true, 'select');
    expect(count($redis->time()) === 2, 'time');
    expect($redis->client('setname', 'php') === true, 'client setname');
    expect($redis->client('getname') === 'php', 'client getname');
    $names = array_column($redis->client('list'), 'name');
    expect(in_array('php', $names, true), 'client list', $names);
    expect($redis->get('key') === false, 'an unknown command is refused');
    expect(str_contains($redis->getLastError(), 'unknown command'), 'and told', $redis->getLastError());
    $redis->clearLastError();
    expect($redis->ping() === true, 'ping after an error');
}

function refused(string $code, callable $call): void
{
    try {
        $call();
    } catch (RedisException $error) {
        expect(str_starts_with($error->getMessage(), $code), $code, $error->getMessage());
        return;
    }
    expect(false, "not refused with $code");
}

$steer = connect('steer');
looks($steer);
looks(connect(['default', 'steer']));
$many = $steer->pipeline();
for ($number = 0; $number < 1000; $number++) {
    $many->echo((string) $number);
}
expect($many->exec() === array_map('strval', range(0, 999)), 'pipeline');

$look = connect('look');
looks($look);
refused('NOPERM', fn () => $look->rawCommand('SHUTDOWN'));

refused('WRONGPASS', fn () => connect('wrong'));
refused('NOAUTH', function () use ($host, $port) {
    $redis = new Redis();
    $redis->connect($host, (int) $port, 30);
    $redis->ping();
});

$unix = new Redis();
$unix->connect($socket);
expect($unix->auth('steer') === true, 'auth over the Unix socket');
looks($unix);

expect($steer->rawCommand('SHUTDOWN') === true, 'shutdown');
echo "ok\n";
