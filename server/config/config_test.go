package config

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// A sample has a leaf of every kind, and sections like a role's.
type sample struct {
	TCP struct {
		Bind   []string `toml:"bind" doc:"addresses to listen on"`
		SndBuf int      `toml:"sndbuf" doc:"bytes"`
	} `toml:"tcp"`
	RPCServer struct {
		Addr    string
		Timeout time.Duration
	}
	Env struct {
		Zone    string `toml:"zone" flag:"zone" env:"ZONE" doc:"where"`
		Offline bool   `toml:"offline" flag:"offline" env:"OFFLINE"`
	} `toml:"env"`
	Regions map[string][]string `toml:"regions"`
	Mids    []int64             `toml:"mids"`
	Ratio   float64             `toml:"ratio"`
	Small   int8                `toml:"small"`
	Count   uint16              `toml:"count"`
	Level   slog.Level          `toml:"level"`
	Waits   []time.Duration     `toml:"waits"`
	inner   `toml:",inline"`
	Private int `toml:"-"`
}

type inner struct {
	Debug bool `toml:"debug" flag:"debug" env:"DEBUG"`
}

func newSample() *sample {
	s := &sample{}
	s.TCP.Bind = []string{":3101"}
	s.RPCServer.Timeout = time.Second
	s.Env.Zone = "default"
	return s
}

func spec(s *sample) Spec {
	return Spec{Role: "comet", Dst: s, Ignored: []string{"bucket", "tcp.reader", "whitelist.whiteLog", "maxProc"}}
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "comet.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	const fromFile = "[env]\nzone = 'file'\n"
	for _, c := range []struct {
		name    string
		file    string
		environ []string
		args    []string
		want    string
	}{
		{"default", "", nil, nil, "default"},
		{"file over default", fromFile, nil, nil, "file"},
		{"goim's variable over file", fromFile, []string{"ZONE=goim"}, nil, "goim"},
		{"our variable over goim's", fromFile, []string{"ZONE=goim", "BARRAGE_ENV_ZONE=ours"}, nil, "ours"},
		{"an empty variable is none", fromFile, []string{"ZONE="}, nil, "file"},
		{"flag over all", fromFile, []string{"BARRAGE_ENV_ZONE=ours"}, []string{"-zone=flag"}, "flag"},
		{"two dashes and a separate value", fromFile, nil, []string{"--env.zone", "flag"}, "flag"},
		{"the last flag wins", "", nil, []string{"-zone", "a", "-env.zone", "b"}, "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSample()
			args := c.args
			if c.file != "" {
				args = append([]string{"-conf", file(t, c.file)}, args...)
			}
			warnings, err := Load(spec(s), args, c.environ)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("error %v, warnings %q", err, warnings)
			}
			if s.Env.Zone != c.want {
				t.Errorf("zone is %q, want %q", s.Env.Zone, c.want)
			}
		})
	}
}

func TestEveryKindFromFileAndFromFlags(t *testing.T) {
	want := newSample()
	want.TCP.Bind = []string{":1", ":2"}
	want.TCP.SndBuf = 4096
	want.RPCServer.Addr = "127.0.0.1:3109"
	want.RPCServer.Timeout = 1500 * time.Millisecond
	want.Env.Offline = true
	want.Regions = map[string][]string{"bj": {"a", "b"}}
	want.Mids = []int64{1, -2}
	want.Ratio = 1
	want.Small = -128
	want.Count = 65535
	want.Level = slog.LevelWarn
	want.Waits = []time.Duration{time.Second, time.Minute}
	want.Debug = true

	fromFile := newSample()
	if _, err := Load(spec(fromFile), []string{"-conf", file(t, `
mids = [1, -2]
ratio = 1
small = -128
count = 65535
level = "warn"
waits = ["1s", "1m"]
debug = true
[TCP]
Bind = [":1", ":2"]
sndBuf = 4096
[rpcServer]
addr = "127.0.0.1:3109"
timeout = "1.5s"
[env]
offline = true
[regions]
bj = ["a", "b"]
`)}, nil); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromFile, want) {
		t.Errorf("from the file: %+v\nwant %+v", fromFile, want)
	}
	fromFlags := newSample()
	if _, err := Load(spec(fromFlags), []string{
		"-mids", "1,-2", "-ratio=1", "-small=-128", "-count=0xffff", "-level=warn", "-waits=1s, 1m", "-debug",
		"-tcp.bind=:1,:2", "-tcp.sndbuf", "4096", "-rpcServer.addr=127.0.0.1:3109", "-rpcServer.timeout=1.5s",
		"-offline", `-regions={bj=["a","b"]}`,
	}, nil); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromFlags, want) {
		t.Errorf("from flags: %+v\nwant %+v", fromFlags, want)
	}
	empty := newSample()
	if _, err := Load(spec(empty), []string{"-tcp.bind="}, nil); err != nil || len(empty.TCP.Bind) != 0 {
		t.Errorf("an empty list gives %q, %v", empty.TCP.Bind, err)
	}
}

func TestErrorsNameWhatIsWrongAndWhatIsRight(t *testing.T) {
	for _, c := range []struct {
		name     string
		file     string
		environ  []string
		args     []string
		contains []string
	}{
		{"unknown flag", "", nil, []string{"-tcp.bnid=:1"}, []string{"unknown flag -tcp.bnid", "did you mean -tcp.bind?", "barrage comet -h"}},
		{"unknown flag of goim's spelling", "", nil, []string{"-offlin"}, []string{"did you mean -offline?"}},
		{"the end of one name", "", nil, []string{"-sndbuf=1"}, []string{"did you mean -tcp.sndbuf?"}},
		{"nothing near", "", nil, []string{"-xyzzyplugh=1"}, []string{"unknown flag -xyzzyplugh (barrage"}},
		{"an argument", "", nil, []string{"start"}, []string{`unexpected argument "start"`, "flags only"}},
		{"a value is missing", "", nil, []string{"-tcp.sndbuf"}, []string{"flag -tcp.sndbuf", "value is missing", "whole number"}},
		{"no number", "", nil, []string{"-tcp.sndbuf=4k"}, []string{"flag -tcp.sndbuf", `"4k"`, "whole number"}},
		{"too large", "", nil, []string{"-small=128"}, []string{"128 is out of range", "-128 to 127"}},
		{"negative", "", nil, []string{"-count=-1"}, []string{"0 to 65535"}},
		{"no bool", "", nil, []string{"-debug=maybe"}, []string{"flag -debug", "true or false"}},
		{"a bare number of seconds", "", nil, []string{"-rpcServer.timeout=5"}, []string{`"5" is not a duration like "1s"`}},
		{"an unknown level", "", nil, []string{"-level=loud"}, []string{"flag -level", "loud"}},
		{"our variable", "", []string{"BARRAGE_TCP_SNDBUF=x"}, nil, []string{"environment BARRAGE_TCP_SNDBUF", `"x"`}},
		{"no such file", "", nil, []string{"-conf=/nowhere.toml"}, []string{"-conf", "/nowhere.toml"}},
		{"syntax", "ratio = = 1\n", nil, nil, []string{"comet.toml: line 1"}},
		{"unknown key", "[tcp]\nbnd = []\n", nil, nil, []string{"comet.toml: unknown key tcp.bnd", "did you mean tcp.bind?"}},
		{"unknown section", "[tpc]\nbind = []\n", nil, nil, []string{"unknown key tpc", "did you mean tcp?"}},
		{"all that is wrong at once", "[tcp]\nbnd = []\nsndbuf = 'x'\n", nil, nil, []string{"tcp.bnd", `tcp.sndbuf: "x" is not a whole number`}},
		{"a section as a key", "tcp = 1\n", nil, nil, []string{"tcp is a section: write [tcp]"}},
		{"a text where a list of numbers is", "mids = 'x'\n", nil, nil, []string{"mids", "a list"}},
		{"a number of seconds", "[rpcServer]\ntimeout = 1\n", nil, nil, []string{"rpcServer.timeout: 1 is not a duration"}},
		{"not a number", "ratio = nan\n", nil, nil, []string{"ratio"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := c.args
			if c.file != "" {
				args = append([]string{"-conf", file(t, c.file)}, args...)
			}
			_, err := Load(spec(newSample()), args, c.environ)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.contains {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
}

func TestWhatMeansNothingGetsOneWarning(t *testing.T) {
	s := newSample()
	warnings, err := Load(spec(s), []string{
		"-conf", file(t, "maxProc = 4\n[bucket]\nsize = 32\nchannel = 10\n[tcp]\nreader = 1\nsndbuf = 7\n[whitelist]\nwhiteLog = 'x'\n"),
		"-vmodule", "a=1", "-log_backtrace_at=b.go:1", "-log.stdout", "--log.v=0", "-debug",
	}, []string{"OFFLINE=perhaps", "BARRAGE_TCP_SNDBUFF=1", "BARRAGE_KAFKA_BROKERS=k:1", "PATH=/bin"})
	if err != nil {
		t.Fatal(err)
	}
	if s.TCP.SndBuf != 7 || !s.Debug || s.Env.Offline {
		t.Errorf("loaded %+v", s)
	}
	for _, want := range []string{
		"flag -vmodule", "flag -log_backtrace_at", "flag -log.stdout", "flag -log.v",
		"bucket is one of goim's", "maxProc is one of goim's", "tcp.reader is one of goim's", "whitelist.whiteLog is one of goim's",
		"OFFLINE is not used", "BARRAGE_TCP_SNDBUFF means nothing to barrage comet; did you mean BARRAGE_TCP_SNDBUF?",
	} {
		count := 0
		for _, w := range warnings {
			if strings.Contains(w, want) {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%d warnings with %q in %q", count, want, warnings)
		}
	}
	if len(warnings) != 10 {
		t.Errorf("%d warnings: %q", len(warnings), warnings)
	}
}

// goim's Makefile has a start line with arguments that lack their dash.
// A secret that was set in a wrong way is in no message.
func TestSecretsAreNotRepeated(t *testing.T) {
	type withSecrets struct {
		Auth string   `secret:"yes" doc:"x"`
		Keys []string `secret:"yes" doc:"x"`
	}
	for text, want := range map[string]string{
		"auth = 987654321\n":            "auth: the value, which is a secret and not shown, is not a text",
		"keys = [987654321987654321]\n": "keys: the value",
		"keys = 987654321\n":            "keys: the value",
	} {
		s := spec(newSample())
		s.Dst = &withSecrets{}
		_, err := Load(s, []string{"-conf", file(t, text)}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "98765") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestGoimsCommandLineEndsAtABareArgument(t *testing.T) {
	args := []string{"-zone=a", "env.zone=b", "-zone=c", "weight=10"}
	as := spec(newSample())
	_, err := Load(as, args, nil)
	if err == nil || !strings.Contains(err.Error(), `unexpected argument "env.zone=b" (did you mean -env.zone=b?): barrage comet takes flags only`) {
		t.Errorf("our own: %v", err)
	}
	s := newSample()
	as = spec(s)
	as.AsGoim = true
	warnings, err := Load(as, args, nil)
	if err != nil || s.Env.Zone != "a" || len(warnings) != 1 || !strings.Contains(warnings[0], "did you mean -env.zone=b?") {
		t.Errorf("goim's: zone %q, %q, %v", s.Env.Zone, warnings, err)
	}
}

func TestUnknownKeyInAnIgnoredSectionsNeighbourhood(t *testing.T) {
	_, err := Load(spec(newSample()), []string{"-conf", file(t, "[whitelist]\nwhitelog = 'x'\nother = 1\n")}, nil)
	if err == nil || !strings.Contains(err.Error(), "whitelist.other") || strings.Contains(err.Error(), "whitelog") {
		t.Errorf("error is %v", err)
	}
}

func TestOneNameSetsAllThatShareIt(t *testing.T) {
	var dst struct {
		A struct {
			Zone string `toml:"zone" flag:"zone" env:"ZONE"`
		} `toml:"a"`
		B struct {
			Zone string `toml:"zone" flag:"zone" env:"ZONE"`
		} `toml:"b"`
	}
	if _, err := Load(Spec{Role: "up", Dst: &dst}, []string{"-zone=z"}, nil); err != nil || dst.A.Zone != "z" || dst.B.Zone != "z" {
		t.Errorf("flag: %+v, %v", dst, err)
	}
	if _, err := Load(Spec{Role: "up", Dst: &dst}, []string{"-b.zone=only"}, []string{"ZONE=both"}); err != nil || dst.A.Zone != "both" || dst.B.Zone != "only" {
		t.Errorf("variable and flag: %+v, %v", dst, err)
	}
}

func TestHelpAndUsage(t *testing.T) {
	s := newSample()
	for _, arg := range []string{"-h", "-help", "--help"} {
		if _, err := Load(spec(s), []string{arg}, nil); !errors.Is(err, ErrHelp) {
			t.Errorf("%s: %v", arg, err)
		}
	}
	var b strings.Builder
	if err := Usage(&b, spec(s)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"barrage comet", "-tcp.bind\n        addresses to listen on\n        default \":3101\"", "-env.zone, -zone", "also $ZONE", "default 1s", "default INFO"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("usage lacks %q:\n%s", want, &b)
		}
	}
}

func TestDstThatCanNotBeSet(t *testing.T) {
	for name, dst := range map[string]any{
		"no pointer": sample{},
		"nil":        (*sample)(nil),
		"a channel":  &struct{ C chan int }{},
		"one name twice": &struct {
			A, B int `toml:"x"`
		}{},
	} {
		if _, err := Load(Spec{Role: "x", Dst: dst}, nil, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestNearest(t *testing.T) {
	commands := []string{"comet", "logic", "job", "discovery"}
	for name, want := range map[string]string{"commet": "comet", "lgoic": "logic", "jobs": "job", "discovry": "discovery", "COMET": "comet", "zzzzzz": ""} {
		if got := Nearest(name, commands); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestGoimSpellingOfFieldNames(t *testing.T) {
	for name, want := range map[string]string{"Addr": "addr", "RPCServer": "rpcServer", "ID": "id", "MaxProc": "maxProc", "HTTP": "http"} {
		if got := lowerFirst(name); got != want {
			t.Errorf("lowerFirst(%s) = %s, want %s", name, got, want)
		}
	}
}

// Any text is either loaded, twice the same, or refused with an error that names the file.
func FuzzLoadFile(f *testing.F) {
	for _, text := range []string{
		"", "[tcp]\nbind = [':1']\n", "mids = [1, 'x']", "[regions]\nbj = ['a']\n", "level = 'warn'", "[[tcp]]\n",
		"small = 1e3", "waits = [['1s']]", "ratio = inf", "tcp.bind = []", "[bucket]\nx.y.z = 1979-05-27T07:32:00Z", "[whitelist]\nwhitelist = [1]",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path := file(t, text)
		first, second := newSample(), newSample()
		warnings, err := Load(spec(first), []string{"-conf", path}, nil)
		again, errAgain := Load(spec(second), []string{"-conf", path}, nil)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not name the file", err)
			}
			if errAgain == nil || errAgain.Error() != err.Error() {
				t.Errorf("errors differ: %v, %v", err, errAgain)
			}
			return
		}
		if errAgain != nil || !slices.Equal(warnings, again) || !reflect.DeepEqual(first, second) {
			t.Errorf("loading twice differs: %v", errAgain)
		}
		for _, key := range slices.Sorted(maps.Keys(first.Regions)) {
			if first.Regions[key] == nil {
				t.Errorf("regions.%s is nil", key)
			}
		}
	})
}
