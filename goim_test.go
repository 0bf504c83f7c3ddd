package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"barrage/server/admin"
	"barrage/server/comet"
	"barrage/server/config"
	"barrage/server/discovery"
	"barrage/server/job"
	"barrage/server/logic"
)

// goimFile is a file as goim's deployments have it.
func goimFile(name string) string { return filepath.Join("testdata", "goim", name+".toml") }

// loadGoim loads one with goim's flags, and returns the warnings about what means nothing here.
func loadGoim[C any](t *testing.T, role string, cfg C, ignored []string, path string, environ []string, args ...string) (settings[C], []string) {
	t.Helper()
	loaded := newSettings(role, cfg)
	warnings, err := config.Load(config.Spec{Role: role, Dst: &loaded, Ignored: ignored}, append([]string{"-conf", path}, args...), environ)
	if err != nil {
		t.Fatal(err)
	}
	return loaded, warnings
}

// only checks that each of the keys (whole sections, too) is warned about, and nothing else.
func only(t *testing.T, warnings []string, keys ...string) {
	t.Helper()
	for _, w := range warnings {
		i := slices.IndexFunc(keys, func(key string) bool { return strings.Contains(strings.ToLower(w), strings.ToLower(": "+key)) })
		if i < 0 {
			t.Errorf("unexpected warning %q", w)
		}
	}
	for _, key := range keys {
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(strings.ToLower(w), strings.ToLower(": "+key)) }) {
			t.Errorf("no warning about %s in %q", key, warnings)
		}
	}
	sorted := slices.Clone(warnings)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(warnings) {
		t.Errorf("a warning comes twice: %q", warnings)
	}
}

func loadComet(t *testing.T, name string, environ []string, args ...string) (settings[comet.Config], []string) {
	t.Helper()
	s, warnings := loadGoim(t, "comet", comet.DefaultConfig(), goimKeys(comet.IgnoredKeys()), goimFile(name), environ, args...)
	if err := s.Role.Validate(); err != nil {
		t.Error(err)
	}
	return s, warnings
}

// What goim's comet has to tune and this one has not.
var cometKeys = []string{"tcp.read", "tcp.write", "bucket."}

func TestGoimsCometFilesLoad(t *testing.T) {
	s, warnings := loadComet(t, "comet", nil)
	only(t, warnings, append(cometKeys, "rpcServer.timeout", "protocol.")...)
	if cfg := s.Role; cfg.Protocol.HandshakeTimeout != 8*time.Second || cfg.TCP.SndBuf != 4096 || cfg.TCP.KeepAlive || cfg.WebSocket.TLSOpen ||
		!slices.Equal(cfg.Whitelist.Whitelist, []int64{123}) || cfg.Whitelist.WhiteLog != "white_list.log" ||
		!slices.Equal(cfg.WebSocket.CertFile, []string{"../../cert.pem"}) || !slices.Equal(cfg.WebSocket.PrivateFile, []string{"../../private.pem"}) {
		t.Errorf("loaded %+v", cfg)
	}

	s, warnings = loadComet(t, "comet-older", []string{"ADDRS=1.2.3.4,5.6.7.8", "OFFLINE=true", "DEPLOY_ENV=prod"},
		"-region=sh", "-zone=sh001", "-weight=10", "-log_dir=/tmp", "-v=5")
	only(t, warnings, append(cometKeys, "maxproc", "serverTick", "onlineTick", "env.env", "env.ipAddrs", "rpcServer.", "timer", "protoSection")...)
	cfg := s.Role
	if cfg.Env.Region != "sh" || cfg.Env.Zone != "sh001" || cfg.Env.DeployEnv != "prod" || cfg.Env.Host != "test" ||
		cfg.Env.Weight != 10 || len(cfg.Env.Addrs) != 2 || !cfg.Env.Offline || !s.Debug {
		t.Errorf("env is %+v, debug %v", cfg.Env, s.Debug)
	}
	if s.Log.Dir != "/tmp" || s.Log.Verbosity != 5 || cfg.RPCClient.Timeout != 2*time.Second {
		t.Errorf("log is %+v, rpcClient %+v", s.Log, cfg.RPCClient)
	}

	s, warnings = loadComet(t, "comet-every-key", nil)
	only(t, warnings, append(cometKeys, "discovery.", "rpcServer.", "protocol.")...)
	if cfg := s.Role; !cfg.TCP.KeepAlive || !cfg.Env.Offline || cfg.Env.Addrs[1] != "2001:db8::7" || len(cfg.TCP.Bind) != 2 ||
		!slices.Equal(cfg.WebSocket.CertFile, []string{"a.pem", "b.pem"}) || !slices.Equal(cfg.Discovery.Nodes, []string{"10.0.0.1:7171", "10.0.0.2:7171"}) {
		t.Errorf("loaded %+v", cfg)
	}
}

func TestGoimsLogicFilesLoad(t *testing.T) {
	load := func(name string, environ []string, args ...string) (logic.Config, []string) {
		s, warnings := loadGoim(t, "logic", logic.DefaultConfig(), goimKeys(logic.IgnoredKeys()), goimFile(name), environ, args...)
		if err := s.Role.Validate(); err != nil {
			t.Error(err)
		}
		return s.Role, warnings
	}
	cfg, warnings := load("logic", nil, "-logtostderr", "-stderrthreshold=INFO", "-host=logic-1")
	for _, w := range warnings {
		if !strings.Contains(w, "rpcClient") && !strings.Contains(w, "network") && !strings.Contains(w, "rpcServer.timeout") {
			t.Errorf("unexpected warning %q", w)
		}
	}
	if cfg.Env.Host != "logic-1" || len(cfg.Regions) != 3 || len(cfg.Regions["sh"]) != 11 || cfg.Node.Heartbeat != 4*time.Minute || cfg.Backoff.Jitter != 0.3 ||
		cfg.Node.TCPPort != 3101 || cfg.HTTPServer.Addr != ":3111" || cfg.HTTPServer.ReadTimeout != time.Second {
		t.Errorf("loaded %+v", cfg)
	}
	cfg, _ = load("logic-older", nil)
	if cfg.HTTPServer.Addr != "0.0.0.0:8011" || cfg.Node.HeartbeatMax != 3 || cfg.Env.Host != "test" {
		t.Errorf("loaded %+v", cfg)
	}
	cfg, _ = load("logic-every-key", []string{"WEIGHT=40"})
	if cfg.Env.Weight != 40 || cfg.Node.RegionWeight != 2 || len(cfg.Kafka.Brokers) != 2 || cfg.Redis.Addr != "10.0.0.2:6379" || cfg.Backoff.Jitter != 0.5 {
		t.Errorf("loaded %+v", cfg)
	}
}

func TestGoimsJobFilesLoad(t *testing.T) {
	for name, want := range map[string]struct {
		group    string
		warnings []string
	}{
		"job":           {"goim-push-group-job", nil},
		"job-older":     {"goim-push-group", []string{"perf", "env.env", "env.ipAddrs"}},
		"job-every-key": {"goim-push-group-job", []string{"useNats", "nats", "discovery.", "comet.routine", "room."}},
	} {
		s, warnings := loadGoim(t, "job", job.DefaultConfig(), goimKeys(job.IgnoredKeys()), goimFile(name), nil)
		only(t, warnings, want.warnings...)
		if s.Role.Kafka.Group != want.group || s.Role.Kafka.Topic != "goim-push-topic" {
			t.Errorf("%s: loaded %+v", name, s.Role.Kafka)
		}
		if err := s.Role.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDiscoverysFileLoads(t *testing.T) {
	cfg := nodeConfig{Node: discovery.DefaultNodeConfig(), Admin: admin.DefaultConfig("discovery")}
	s, _ := loadGoim(t, "discovery", cfg, discovery.IgnoredNodeKeys(), goimFile("discovery"), nil)
	if len(s.Role.Node.Nodes) != 2 || s.Role.Node.Zones["sh002"][0] != "10.0.0.9:7171" || s.Role.Node.Env.Host != "test_server" {
		t.Errorf("loaded %+v", s.Role)
	}
	if err := s.Role.Node.Validate(); err != nil {
		t.Error(err)
	}
}

// Each of goim's settings from all the places where it can be, the higher over the lower.
func TestPrecedenceOfGoimsSettings(t *testing.T) {
	type loaded = *settings[comet.Config]
	for _, c := range []struct {
		flag, goims, ours, key string
		quote                  string // around a value in the file
		file, env, own, given  string // the values, from low to high
		get                    func(loaded) string
	}{
		{"region", "REGION", "BARRAGE_ENV_REGION", "region", "'", "a", "b", "c", "d", func(s loaded) string { return s.Role.Env.Region }},
		{"zone", "ZONE", "BARRAGE_ENV_ZONE", "zone", "'", "a", "b", "c", "d", func(s loaded) string { return s.Role.Env.Zone }},
		{"deploy.env", "DEPLOY_ENV", "BARRAGE_ENV_DEPLOYENV", "deployEnv", "'", "a", "b", "c", "d", func(s loaded) string { return s.Role.Env.DeployEnv }},
		{"host", "", "BARRAGE_ENV_HOST", "host", "'", "a", "", "c", "d", func(s loaded) string { return s.Role.Env.Host }},
		{"weight", "WEIGHT", "BARRAGE_ENV_WEIGHT", "weight", "", "1", "2", "3", "4", func(s loaded) string { return strconv.FormatInt(s.Role.Env.Weight, 10) }},
		{"addrs", "ADDRS", "BARRAGE_ENV_ADDRS", "addrs", "'", "a", "b,b", "c", "d,d", func(s loaded) string { return strings.Join(s.Role.Env.Addrs, ",") }},
		{"offline", "OFFLINE", "BARRAGE_ENV_OFFLINE", "offline", "", "true", "false", "true", "false", func(s loaded) string { return strconv.FormatBool(s.Role.Env.Offline) }},
		{"debug", "DEBUG", "BARRAGE_DEBUG", "", "", "true", "false", "true", "false", func(s loaded) string { return strconv.FormatBool(s.Debug) }},
	} {
		t.Run(c.flag, func(t *testing.T) {
			line := "[env]\n" + c.key + " = " + c.quote + c.file + c.quote + "\n"
			if c.key == "" {
				line = c.flag + " = " + c.file + "\n"
			}
			path := filepath.Join(t.TempDir(), "comet.toml")
			if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
			// HOST, which shells set, is no setting, as in goim.
			environ := []string{"HOST=shell"}
			check := func(where, want string, args ...string) {
				t.Helper()
				s, warnings := loadGoim(t, "comet", comet.DefaultConfig(), nil, path, environ, args...)
				if got := c.get(&s); got != want || len(warnings) > 0 {
					t.Errorf("%s: %q, want %q, %q", where, got, want, warnings)
				}
			}
			check("file over default", c.file)
			if c.goims != "" {
				environ = append(environ, c.goims+"="+c.env)
				check("goim's variable over file", c.env)
			}
			environ = append(environ, c.ours+"="+c.own)
			check("our variable over goim's", c.own)
			check("flag over all", c.given, "-"+c.flag+"="+c.given)
			check("with two dashes", c.given, "--"+c.flag+"="+c.given)
		})
	}
}
