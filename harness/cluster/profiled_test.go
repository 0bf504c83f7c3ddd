package cluster

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"strings"
	"testing"
	"time"
)

// A process that has no metrics but Go's profiles tells what memory it uses, and how much
// processor time in the phase that is measured.
func TestProfiled(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	s := httptest.NewServer(mux)
	defer s.Close()
	target, err := ParseTarget("tcp=a:1,push=b:2,pprof=comet@" + strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	p := c.Processes()[0]
	m, err := p.Metrics(t.Context())
	if err != nil || !p.Profiled() || p.Role != RoleComet || m["go_memstats_heap_inuse_bytes"] < 1<<16 || m["go_memstats_stack_inuse_bytes"] < 1<<12 {
		t.Errorf("%s, %v, %v", p.Role, m, err)
	}
	if all := c.Usage(t.Context()); len(all) != 0 {
		t.Errorf("its usage is known at any time: %v", all)
	}
	ctx, cancel := context.WithCancel(t.Context())
	busy := make(chan struct{})
	go func() {
		defer close(busy)
		for n := 0; ctx.Err() == nil; n++ {
			// as a server at work
		}
	}()
	cpu, err := p.ProfileCPU(t.Context(), time.Second)
	cancel()
	<-busy
	if err != nil || cpu <= 0 {
		t.Errorf("CPU time %s, %v", cpu, err)
	}
	if _, err := p.ProfileCPU(ctx, time.Second); err == nil {
		t.Error("a profile was taken after the end of its context")
	}
}

func TestProfilesThatSayNothing(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("heap profile: 0: 0\n# x = y\n")) }))
	defer s.Close()
	page := Page{RoleComet, s.URL, true}
	if _, err := Connect(t.Context(), &Target{Pages: []Page{page}}); err == nil || !strings.Contains(err.Error(), "no statistics") {
		t.Errorf("connected: %v", err)
	}
	p := &Process{Name: "comet", pages: []Page{page}}
	if _, err := p.ProfileCPU(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "CPU profile of comet") {
		t.Errorf("CPU time of no profile: %v", err)
	}
}
