// ioredis speaks with the admin port: client.cjs HOST PORT SOCKET, with NODE_PATH where ioredis is. Prints `ok` when all is
// as its users expect.
'use strict';

const assert = require('node:assert');
const Redis = require('ioredis');

const [host, port, path] = process.argv.slice(2);
const clients = [];

function connect(options) {
  const redis = new Redis({
    host,
    port: Number(port),
    retryStrategy: null,
    maxRetriesPerRequest: 0,
    ...options,
  });
  // Told by the rejected promises as well.
  redis.on('error', () => {});
  clients.push(redis);
  return redis;
}

async function looks(redis) {
  assert.strictEqual(await redis.ping(), 'PONG');
  assert.strictEqual(await redis.echo('a b\r\n\0'), 'a b\r\n\0');
  const info = await redis.info();
  assert.match(info, /^name:t\r$/m);
  assert.match(info, /^worker_max:2\r$/m);
  assert.match(await redis.info('cpu'), /^# CPU\r\n/);
  assert.strictEqual((await redis.time()).length, 2);
  assert.strictEqual(await redis.select(0), 'OK');
  assert.ok((await redis.command('COUNT')) > 10);
  await assert.rejects(redis.get('key'), /unknown command/);
  assert.strictEqual(await redis.ping(), 'PONG');
}

async function main() {
  const steer = connect({ password: 'steer', connectionName: 'node', db: 0 });
  await looks(steer);
  assert.strictEqual(await steer.client('GETNAME'), 'node');
  assert.match(await steer.client('LIST'), / name=node .* user=default /);
  const many = steer.pipeline();
  for (let number = 0; number < 1000; number++) many.echo(String(number));
  const answers = await many.exec();
  assert.deepStrictEqual(answers, Array.from({ length: 1000 }, (_, number) => [null, String(number)]));

  const look = connect({ username: 'default', password: 'look' });
  await looks(look);
  await assert.rejects(look.call('SHUTDOWN'), /^ReplyError: NOPERM/);

  await assert.rejects(connect({ password: 'wrong' }).ping());
  await assert.rejects(connect({}).ping());

  await looks(connect({ host: undefined, port: undefined, path, password: 'steer' }));

  assert.strictEqual(await steer.call('SHUTDOWN'), 'OK');
  console.log('ok');
}

main()
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  })
  .finally(() => clients.forEach((redis) => redis.disconnect()));
