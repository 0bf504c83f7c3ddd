package config

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

type checked struct {
	Wait  time.Duration       `toml:"wait" doc:"How long." range:"10ms..1m"`
	Count uint16              `toml:"count" doc:"How many." range:"1..10"`
	Least time.Duration       `toml:"least" range:"1m.."`
	Most  float64             `toml:"most" range:"..1.5"`
	Word  string              `toml:"word" oneof:"skip close" flag:"word" env:"WORD"`
	Name  string              `toml:"name" need:"a name"`
	List  []string            `toml:"list" need:"an address"`
	Zones map[string][]string `toml:"zones"`
	Deep  struct {
		Mids []int64 `toml:"mids" doc:"Members."`
	} `toml:"deep.er"`
}

func goodChecked() checked {
	c := checked{Wait: time.Second, Count: 3, Least: 4 * time.Hour, Most: 1, Word: "skip", Name: "x\"y\n", List: []string{"a", "b,c"},
		Zones: map[string][]string{"sh 1": {"x"}, "bj": {}}}
	c.Deep.Mids = []int64{1, -2}
	return c
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*checked)
		want   string
	}{
		"good":       {func(*checked) {}, ""},
		"too short":  {func(c *checked) { c.Wait = 1 }, "s.wait: 1ns is outside 10ms to 1m"},
		"too many":   {func(c *checked) { c.Count = 11 }, "s.count: 11 is outside 1 to 10"},
		"below":      {func(c *checked) { c.Least = 0 }, "s.least: 0s is less than 1m"},
		"above":      {func(c *checked) { c.Most = 2 }, "s.most: 2 is more than 1.5"},
		"a word":     {func(c *checked) { c.Word = "drop" }, `s.word: "drop" is none of skip, close`},
		"no name":    {func(c *checked) { c.Name = "" }, "s.name: it is empty; it needs a name"},
		"no list":    {func(c *checked) { c.List = nil }, "s.list: it is empty; it needs an address"},
		"empty item": {func(c *checked) { c.List = []string{"a", ""} }, "s.list: item 2 is empty; it needs an address"},
		"several":    {func(c *checked) { c.Wait, c.Name = 0, "" }, "s.wait: 0s is outside 10ms to 1m\ns.name: it is empty; it needs a name"},
	} {
		cfg := goodChecked()
		c.change(&cfg)
		err := CheckAt("s", &cfg)
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// What is printed loads as what was printed.
func TestPrint(t *testing.T) {
	for name, cfg := range map[string]checked{"full": goodChecked(), "zero": {}} {
		var b bytes.Buffer
		if err := Print(&b, Spec{Role: "x", Dst: &cfg}); err != nil {
			t.Fatal(err)
		}
		var back checked
		if warnings, err := Load(Spec{Role: "x", Dst: &back}, []string{"-conf", file(t, b.String())}, nil); err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %q, %v in\n%s", name, warnings, err, b.String())
		}
		if diff, err := Diff(&cfg, &back); err != nil || len(diff) > 0 {
			t.Errorf("%s: %q differ, %v, in\n%s", name, diff, err, b.String())
		}
		for _, want := range []string{
			"# How long.\n# (accepted: 10ms to 1m; flag -wait; variable BARRAGE_WAIT)\nwait = ",
			"# (accepted: one of skip, close; flag -word; variable BARRAGE_WORD or WORD)\n",
			"# (accepted: 1m and more; flag -least; variable BARRAGE_LEAST)\n", "\n[deep.er]\n# Members.\n",
		} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: %q is not in\n%s", name, want, b.String())
			}
		}
	}
}

func FuzzPrint(f *testing.F) {
	for _, text := range []string{"", "wait = '1s'", "[deep.er]\nmids = [1]", "count = 99999", "zones = {a = ['b']}", "list = 'a,b'", "wait = 1979-05-27", "\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var cfg checked
		if _, err := Load(Spec{Role: "x", Dst: &cfg, Ignored: []string{"old"}}, []string{"-conf", file(t, text)}, nil); err != nil {
			return
		}
		var b bytes.Buffer
		if err := Print(&b, Spec{Role: "x", Dst: &cfg}); err != nil {
			t.Fatal(err)
		}
		var back checked
		if _, err := Load(Spec{Role: "x", Dst: &back}, []string{"-conf", file(t, b.String())}, nil); err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		if diff, err := Diff(&cfg, &back); err != nil || len(diff) > 0 {
			t.Errorf("%q differ, %v", diff, err)
		}
	})
}
