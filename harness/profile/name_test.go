package profile

import (
	"maps"
	"slices"
	"testing"
)

func TestShortNames(t *testing.T) {
	want := map[string]string{
		"barrage/server/comet.(*shard).sweep":                      "comet.(*shard).sweep",
		"barrage/server/comet.(*shard).sweep.func1":                "comet.(*shard).sweep.func1",
		"github.com/redis/go-redis/v9.(*Client).Do":                "go-redis.(*Client).Do",
		"gopkg.in/yaml%2ev3.(*decoder).unmarshal":                  "yaml.v3.(*decoder).unmarshal",
		"slices.SortFunc[go.shape.[]*barrage/x.T,go.shape.*uint8]": "slices.SortFunc[...]",
		"barrage/x.(*ring[go.shape.struct { a [2]int }]).push":     "x.(*ring[...]).push",
		"barrage/x.pair[go.shape.int]":                             "barrage/x.pair[go.shape.int]",
		"barrage/x.pair[go.shape.string]":                          "barrage/x.pair[go.shape.string]",
		"barrage/server/config.Load":                               "server/config.Load",
		"barrage/harness/config.Load":                              "harness/config.Load",
		"config.Load":                                              "config.Load",
		"internal/runtime/syscall/linux.Syscall6":                  "syscall/linux.Syscall6",
		"main.main":         "main.main",
		"runtime.goexit":    "runtime.goexit",
		"aeshashbody":       "aeshashbody",
		"[librdkafka.so.1]": "[librdkafka.so.1]",
		"github.com/bytedance/sonic/internal/decoder/jitdec.(*_Stack).x": "jitdec.(*_Stack).x",
	}
	got := shortNames(slices.Sorted(maps.Keys(want)))
	for whole, short := range want {
		if got[whole] != short {
			t.Errorf("%s is shortened to %q, want %q", whole, got[whole], short)
		}
	}
}

func TestOrigin(t *testing.T) {
	for name, want := range map[string]Origin{
		"barrage/server/comet.(*shard).sweep":     Ours,
		"main.run":                                Ours,
		"runtime.gcDrain":                         Runtime,
		"internal/runtime/maps.(*Map).getWithKey": Runtime,
		"aeshashbody":                             Runtime,
		"internal/runtime/syscall/linux.Syscall6": Kernel,
		"syscall.RawSyscall6":                     Kernel,
		"golang.org/x/sys/unix.EpollWait":         Kernel,
		"net/http.(*conn).serve":                  Standard,
		"vendor/golang.org/x/net/idna.ToASCII":    Standard,
		"github.com/cloudwego/netpoll.(*x).y":     Modules,
		"gopkg.in/yaml%2ev3.(*decoder).unmarshal": Modules,
		"[barrage]":                               Foreign,
	} {
		if got := originOf(name); got != want {
			t.Errorf("%s is of %s, want %s", name, got, want)
		}
	}
}

// Whatever the names, no two have the same short one.
func FuzzShortNames(f *testing.F) {
	f.Add("a/b.c", "x/b.c", "b.c")
	f.Add("a/v2.c", "v2.c", "a.c")
	f.Add("f[int]", "f[string]", "[f]")
	f.Add("a//b", "/b", "%2fb")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if len(a)+len(b)+len(c) > 500 {
			return // no name is so long, and a path of thousands of elements takes its time
		}
		names := slices.Compact(slices.Sorted(slices.Values([]string{a, b, c})))
		short := shortNames(names)
		distinct := map[string]bool{}
		for _, s := range short {
			distinct[s] = true
		}
		if len(short) != len(names) || len(distinct) != len(names) {
			t.Fatalf("%q have the short names %q", names, short)
		}
		for _, name := range names {
			originOf(name)
		}
	})
}
