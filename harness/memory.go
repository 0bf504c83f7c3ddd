package harness

import (
	"os"
	"strconv"
	"strings"

	"barrage/harness/report"
)

// readMemory reads what this machine has in use, all programs and the kernel together. What the kernel
// doesn't tell stays 0.
func readMemory() (total int64, used report.MachineMemory) {
	info := readMemInfo()
	total = info["MemTotal"]
	used = report.MachineMemory{UsedBytes: total - info["MemAvailable"], SlabBytes: info["Slab"], SwapBytes: info["SwapTotal"] - info["SwapFree"]}
	if text, err := os.ReadFile("/proc/net/sockstat"); err == nil {
		used.TCPBytes = parseSockstat(string(text)) * int64(os.Getpagesize())
	}
	return total, used
}

// readMemInfo returns what /proc/meminfo says, in bytes; nothing where it can't be read.
func readMemInfo() map[string]int64 {
	text, _ := os.ReadFile("/proc/meminfo")
	return parseMemInfo(string(text))
}

// parseMemInfo reads /proc/meminfo (proc_meminfo(5)), in bytes.
func parseMemInfo(text string) map[string]int64 {
	info := map[string]int64{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		if kb, ok := strings.CutSuffix(strings.TrimSpace(rest), " kB"); ok {
			n, _ := strconv.ParseInt(kb, 10, 64)
			info[name] = n << 10
		}
	}
	return info
}

// parseSockstat returns the pages that TCP's sockets hold data in, those of all networks, from
// /proc/net/sockstat: "TCP: inuse 5 orphan 0 tw 0 alloc 6 mem 1".
func parseSockstat(text string) (pages int64) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "TCP:" {
			continue
		}
		for i := 1; i+1 < len(fields); i += 2 {
			if fields[i] == "mem" {
				pages, _ = strconv.ParseInt(fields[i+1], 10, 64)
			}
		}
	}
	return pages
}

// memory is what the machine had in use before the run's processes, and at most in any second of the
// run; nil where nothing is known.
func (r *run) memory() *report.Memory {
	if r.total == 0 {
		return nil
	}
	m := &report.Memory{TotalBytes: r.total, Before: r.before, Most: r.before}
	for _, s := range r.timeline {
		if s.Memory != nil {
			m.Most = m.Most.Max(*s.Memory)
		}
	}
	return m
}
