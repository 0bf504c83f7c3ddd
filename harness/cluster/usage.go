package cluster

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used, by /proc.
type Usage struct {
	User   time.Duration // processor time since its start, children not included
	System time.Duration
	RSS    int64 // resident memory in bytes, shared pages included
	Peak   int64 // the most that RSS ever was
}

// CPU returns user and system time together.
func (u Usage) CPU() time.Duration { return u.User + u.System }

// A ClockTick is the unit of times in /proc: USER_HZ is 100 on every platform that Go runs on.
const ClockTick = time.Second / 100

// ReadUsage returns what the process pid has used so far.
func ReadUsage(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, fmt.Errorf("read usage: %w", err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Usage{}, fmt.Errorf("read usage: %w", err)
	}
	return parseUsage(stat, status)
}

// FirstStatField is the number of the first of StatFields.
const FirstStatField = 3

// StatFields returns the fields of /proc/PID/stat (proc_pid_stat(5)) behind the command's name, which
// stands in parentheses and may hold anything, blanks included.
func StatFields(stat []byte) []string {
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
}

// parseUsage reads /proc/PID/stat and /proc/PID/status (proc_pid_stat(5), proc_pid_status(5)).
func parseUsage(stat, status []byte) (Usage, error) {
	fields := StatFields(stat)
	const utime, stime = 14 - FirstStatField, 15 - FirstStatField
	if len(fields) <= stime {
		return Usage{}, fmt.Errorf("read usage: stat has %d fields behind the name", len(fields))
	}
	user, err1 := strconv.ParseInt(fields[utime], 10, 64)
	system, err2 := strconv.ParseInt(fields[stime], 10, 64)
	if err1 != nil || err2 != nil {
		return Usage{}, fmt.Errorf("read usage: utime %q, stime %q", fields[utime], fields[stime])
	}
	return Usage{
		User: time.Duration(user) * ClockTick, System: time.Duration(system) * ClockTick,
		RSS: kilobytes(status, "VmRSS:"), Peak: kilobytes(status, "VmHWM:"),
	}, nil
}

// ReadPSS returns the process's proportional share of resident memory in bytes. It walks
// the page tables, so it is not for every second.
func ReadPSS(pid int) (int64, error) {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, fmt.Errorf("read PSS: %w", err)
	}
	return kilobytes(rollup, "Pss:"), nil
}

// kilobytes returns the value of the line "label  123 kB" in bytes, or 0.
func kilobytes(text []byte, label string) int64 {
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, label)
		if !ok {
			continue
		}
		v, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		return v << 10
	}
	return 0
}
