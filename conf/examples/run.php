<?php
/*
 * A job is the path of a text file: its words are counted, and the most frequent go to the log. All functions but run
 * are optional. Without a queue, run is called again and again, with null.
 */

/** Once, before the first job: connections, caches. */
function init($worker)
{
    $worker->log->info("counts words, pid {$worker->pid}");
}

/** For each job. To return false, to throw or to exit is to fail; anything else is success. */
function run($worker, $data)
{
    $text = @file_get_contents($data);
    if ($text === false) {
        throw new RuntimeException("cannot read $data");
    }
    $words = str_word_count(strtolower($text), 1);
    $counts = array_count_values(array_filter($words, fn($word) => strlen($word) > 3));
    arsort($counts);
    // What is printed is logged, too.
    printf("%s: %d words, most often: %s\n", $data, count($words), implode(', ', array_keys(array_slice($counts, 0, 3))));
}

/** Once, after the last job. */
function complete($worker)
{
    $worker->log->info("counted {$worker->getStatus()->totalCount} files");
}
