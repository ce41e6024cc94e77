package telemetry

import (
	"bytes"

	"github.com/VictoriaMetrics/metrics"
)

// processFamilies are the families passed on from the metrics library. It knows how to read them on each system, but gives
// them without HELP, and some under names that contradict their type; those are left out.
var processFamilies = []struct{ name, kind, help string }{
	{"go_gc_cpu_seconds_total", "counter", "CPU time spent on garbage collection."},
	{"go_gc_duration_seconds", "summary", "Pauses of the last garbage collections."},
	{"go_gomaxprocs", "gauge", "Threads that may run Go code at the same time."},
	{"go_goroutines", "gauge", "Goroutines that exist."},
	{"go_info", "gauge", "Version of Go."},
	{"go_memlimit_bytes", "gauge", "Soft memory limit of the Go runtime."},
	{"go_memstats_alloc_bytes", "gauge", "Bytes allocated and still in use."},
	{"go_memstats_alloc_bytes_total", "counter", "Bytes allocated since the start, also those freed."},
	{"go_memstats_frees_total", "counter", "Objects freed."},
	{"go_memstats_heap_alloc_bytes", "gauge", "Heap bytes allocated and still in use."},
	{"go_memstats_heap_idle_bytes", "gauge", "Heap bytes waiting to be used."},
	{"go_memstats_heap_inuse_bytes", "gauge", "Heap bytes in use."},
	{"go_memstats_heap_objects", "gauge", "Objects on the heap."},
	{"go_memstats_heap_released_bytes", "gauge", "Heap bytes released to the system."},
	{"go_memstats_heap_sys_bytes", "gauge", "Heap bytes obtained from the system."},
	{"go_memstats_last_gc_time_seconds", "gauge", "Unix time of the last garbage collection."},
	{"go_memstats_mallocs_total", "counter", "Objects allocated."},
	{"go_memstats_next_gc_bytes", "gauge", "Heap size at which the next garbage collection starts."},
	{"go_memstats_stack_inuse_bytes", "gauge", "Bytes of stacks in use."},
	{"go_memstats_sys_bytes", "gauge", "Bytes obtained from the system."},
	{"go_mutex_wait_seconds_total", "counter", "Time goroutines spent waiting for a mutex."},
	{"go_threads", "gauge", "Threads of the system created."},
	{"process_cpu_seconds_total", "counter", "User and system CPU time spent."},
	{"process_max_fds", "gauge", "Limit on open file descriptors."},
	{"process_num_threads", "gauge", "Threads of the process."},
	{"process_open_fds", "gauge", "Open file descriptors."},
	{"process_resident_memory_bytes", "gauge", "Resident memory."},
	{"process_start_time_seconds", "gauge", "Unix time of the start of the process."},
	{"process_virtual_memory_bytes", "gauge", "Virtual memory."},
}

func (r *Registry) declareProcess() {
	for _, p := range processFamilies {
		r.declare(Desc{Name: p.name, Help: p.help}, p.kind, nil)
	}
}

// readProcess gives the sample lines of the process by family. What the system does not tell is not there.
func readProcess() map[string][]byte {
	var text bytes.Buffer
	tryTo(func() { metrics.WriteProcessMetrics(&text) })
	tryTo(func() { metrics.WriteFDMetrics(&text) })
	lines := make(map[string][]byte, len(processFamilies))
	for _, p := range processFamilies {
		lines[p.name] = nil
	}
	for line := range bytes.Lines(text.Bytes()) {
		end := bytes.IndexAny(line, "{ ")
		if end <= 0 || line[0] == '#' {
			continue
		}
		name := string(line[:end])
		if _, wanted := lines[name]; !wanted {
			for _, suffix := range []string{"_sum", "_count"} {
				if family, is := bytes.CutSuffix(line[:end], []byte(suffix)); is {
					name = string(family)
				}
			}
		}
		if have, wanted := lines[name]; wanted {
			lines[name] = append(have, line...)
		}
	}
	return lines
}

// tryTo lives through the library's panics: it has one where file descriptors
// run out while it reads, which is when the other metrics are wanted most.
func tryTo(write func()) {
	defer func() { _ = recover() }()
	write()
}
