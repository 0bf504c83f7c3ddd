package harness

import "testing"

func TestMemoryFiles(t *testing.T) {
	info := parseMemInfo("MemTotal:       24683600 kB\nMemAvailable:   20000000 kB\nHugePages_Total:       0\nSlab:             123456 kB\n")
	if info["MemTotal"] != 24683600<<10 || info["Slab"] != 123456<<10 || info["HugePages_Total"] != 0 {
		t.Errorf("%v", info)
	}
	for text, want := range map[string]int64{
		"sockets: used 2000213\nTCP: inuse 2000006 orphan 0 tw 3 alloc 2000007 mem 514\nUDP: inuse 0 mem 0\n": 514,
		"sockets: used 1\n": 0,
		"TCP: inuse 1 mem":  0,
		"":                  0,
	} {
		if got := parseSockstat(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestMemoryIsRead(t *testing.T) {
	if total, used := readMemory(); used.UsedBytes <= 0 || used.UsedBytes >= total || used.SlabBytes <= 0 {
		t.Errorf("%d bytes, of them %+v", total, used)
	}
}
