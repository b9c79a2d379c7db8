<?php
/*
 * An example of a script that stark keeps warm and calls for every job (run.script_file = "run.php").
 * Only run() is required. The file is loaded once per worker; what it keeps in globals stays between jobs.
 */

/** Once, before the first job. An exception here means: this script cannot run. */
function init($worker)
{
    $worker->log->info("hello from worker {$worker->index} of {$worker->name}");
}

/**
 * Once for each job. $data holds the bytes exactly as they were pushed (null in a pool without a queue).
 *
 * An exception means: failed; so does false. Anything else means: done. In a pool without a queue, false means that
 * there was nothing to do, and stark pauses before the next call.
 */
function run($worker, $data)
{
    echo "got ", strlen($data ?? ''), " bytes: ", substr($data ?? '', 0, 60), "\n"; // What is printed goes to the log.
    return true;
}

/** Once, before the worker leaves. */
function complete($worker)
{
    $status = $worker->getStatus();
    $worker->log->info(sprintf('bye after %d jobs, %.1f seconds of work', $status->totalCount, $status->totalTime));
}
