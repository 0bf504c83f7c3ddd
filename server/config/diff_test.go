package config

import (
	"slices"
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	type settings struct {
		TCP struct {
			Bind []string `toml:"bind"`
			Size int      `toml:"size"`
		} `toml:"tcp"`
		Timeout time.Duration       `toml:"timeout"`
		Zones   map[string][]string `toml:"zones"`
	}
	a, b := settings{}, settings{}
	b.TCP.Bind = []string{}
	b.Zones = map[string][]string{}
	if paths, err := Diff(&a, &b); err != nil || len(paths) != 0 {
		t.Errorf("empty and none: %q, %v", paths, err)
	}
	b.TCP.Bind, b.Timeout, b.Zones = []string{":1"}, time.Second, map[string][]string{"a": {"b"}}
	paths, err := Diff(&a, &b)
	if err != nil || !slices.Equal(paths, []string{"tcp.bind", "timeout", "zones"}) {
		t.Errorf("%q, %v", paths, err)
	}
	in, out := Split(paths, []string{"tcp", "time"})
	if !slices.Equal(in, []string{"tcp.bind"}) || !slices.Equal(out, []string{"timeout", "zones"}) {
		t.Errorf("in %q, out %q", in, out)
	}
	if _, err := Diff(&a, &struct{}{}); err == nil {
		t.Error("two types were compared")
	}
}

func TestCopy(t *testing.T) {
	a, b := newSample(), newSample()
	b.Env.Zone, b.TCP.Bind, b.Ratio = "z", []string{":9"}, 2
	if err := Copy(a, b, []string{"env.zone", "tcp.bind"}); err != nil {
		t.Fatal(err)
	}
	if diff, err := Diff(a, b); err != nil || !slices.Equal(diff, []string{"ratio"}) {
		t.Errorf("%q differ, %v", diff, err)
	}
	if err := Copy(a, &inner{}, nil); err == nil {
		t.Error("two types are no error")
	}
}

func TestListAsOneText(t *testing.T) {
	var dst struct {
		CertFile []string `toml:"certFile"`
	}
	for text, want := range map[string][]string{
		`certFile = "a.pem,b.pem"`:      {"a.pem", "b.pem"},
		`certFile = "a.pem"`:            {"a.pem"},
		`certFile = ["a.pem", "b.pem"]`: {"a.pem", "b.pem"},
		`certFile = ""`:                 {},
	} {
		if _, err := Load(Spec{Role: "x", Dst: &dst}, []string{"-conf", file(t, text)}, nil); err != nil || !slices.Equal(dst.CertFile, want) {
			t.Errorf("%s: %q, %v", text, dst.CertFile, err)
		}
	}
}
