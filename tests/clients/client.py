"""redis-py speaks with the admin port: client.py HOST PORT SOCKET. Prints `ok` when all is as its users expect."""

import sys

import redis

host, port, socket = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def connect(password, **options):
    return redis.Redis(host, port, password=password, socket_timeout=30, **options)


def refused(error, call):
    try:
        answer = call()
    except error:
        return
    sys.exit(f"{call} is not refused with {error}, but answered {answer!r}")


def looks(client):
    assert client.ping() is True
    assert client.echo("a b\r\n\0") == b"a b\r\n\0"
    info = client.info()
    assert info["name"] == "t" and info["loading"] == 0, info
    assert info["worker0"]["state"] in ("idle", "starting"), info
    assert info["worker_max"] == 2 and "redis_version" in info, info
    assert "used_cpu_sys" in client.info("cpu")
    seconds, microseconds = client.time()
    assert seconds > 1_600_000_000 and 0 <= microseconds < 1_000_000
    assert client.command_count() > 10
    assert client.command()["ping"]["arity"] == -1
    assert client.execute_command("CLIENT", "ID") > 0
    refused(redis.ResponseError, lambda: client.get("key"))
    refused(redis.ResponseError, lambda: client.execute_command("ECHO"))
    assert client.ping() is True


# Named, with a database, as many programs connect.
steer = connect("steer", client_name="py", db=0)
looks(steer)
assert steer.client_getname() in ("py", b"py")
mine = steer.client_info()
assert mine["name"] == "py" and mine["user"] == "default" and mine["resp"] in ("2", "3"), mine
pipeline = steer.pipeline(transaction=False)
for number in range(1000):
    pipeline.echo(number)
assert pipeline.execute() == [str(number).encode() for number in range(1000)]

look = connect("look", username="default", client_name="looker")
looks(look)
names = {client["name"]: client["user"] for client in steer.client_list()}
assert names["py"] == "default" and names["looker"] == "readonly", names
refused(redis.exceptions.NoPermissionError, lambda: look.execute_command("SHUTDOWN"))

# Killed, it connects anew by itself.
number = look.client_id()
assert steer.client_kill_filter(_id=number) == 1
try:
    look.ping()
except redis.ConnectionError:
    pass  # The end of the connection was still on its way when this was sent.
assert look.ping() is True and look.client_id() > number

# Older ones do not know WRONGPASS.
refused((redis.AuthenticationError, redis.ResponseError), lambda: connect("wrong").ping())
refused(redis.AuthenticationError, lambda: connect(None).ping())
refused(redis.ResponseError, lambda: connect("steer", db=1).ping())

unix = redis.Redis(unix_socket_path=socket, password="steer")
looks(unix)
assert unix.client_info()["addr"] == f"unix:{socket}"
looks(redis.Redis.from_url(f"redis://default:steer@{host}:{port}/0"))
if int(redis.__version__.split(".")[0]) >= 5:
    looks(connect("steer", protocol=3))

assert steer.execute_command("SHUTDOWN") in (b"OK", True)
print("ok")
