package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"barrage/server/comet"
	"barrage/server/config"
	"barrage/server/discovery"
	"barrage/server/job"
	"barrage/server/logic"
)

// loadGoim loads a file as goim's deployments have it, with goim's flags, and returns the
// warnings about what means nothing here.
func loadGoim[C any](t *testing.T, name string, role C, ignored []string, text string, environ []string, args ...string) (settings[C], string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded := newSettings(name, role)
	warnings, err := config.Load(config.Spec{Role: name, Dst: &loaded, Ignored: ignored}, append([]string{"-conf", path}, args...), environ)
	if err != nil {
		t.Fatal(err)
	}
	return loaded, strings.Join(warnings, "\n")
}

func TestGoimsCometFileAndFlagsLoad(t *testing.T) {
	s, warnings := loadGoim(t, "comet", comet.DefaultConfig(), goimKeys(comet.IgnoredKeys()), `
debug = true
maxproc = 32
serverTick = "5s"
onlineTick = "10s"
[env]
region = "bj"
zone = "bj001"
env = "dev"
host = "test"
weight = 20
ipAddrs = ["127.0.0.1"]
[discovery]
nodes = ["10.0.0.1:7171"]
[rpcServer]
network = "tcp"
addr = ":3109"
timeout = "1s"
[rpcClient]
dial = "1s"
timeout = "2s"
[tcp]
bind = [":3101"]
sndbuf = 4096
rcvbuf = 4096
keepalive = false
reader = 32
readBuf = 1024
readBufSize = 8192
writer = 32
writeBuf = 1024
writeBufSize = 8192
[webSocket]
bind = [":3102"]
tlsOpen = false
tlsBind = [":3103"]
certFile = "cert.pem"
privateFile = "private.pem"
[timer]
timer = 32
timerSize = 2048
[protocol]
timer = 32
timerSize = 2048
svrProto = 10
cliProto = 5
handshakeTimeout = "8s"
[whitelist]
Whitelist = [123]
WhiteLog = "white_list.log"
[bucket]
size = 32
channel = 1024
room = 1024
routineAmount = 32
routineSize = 1024
`, []string{"ADDRS=1.2.3.4,5.6.7.8", "OFFLINE=true", "DEPLOY_ENV=prod"},
		"-region=sh", "-zone=sh001", "-weight=10", "-log_dir=/tmp", "-v=5")
	cfg := s.Role
	if cfg.Env.Region != "sh" || cfg.Env.Zone != "sh001" || cfg.Env.DeployEnv != "prod" || cfg.Env.Host != "test" ||
		cfg.Env.Weight != 10 || len(cfg.Env.Addrs) != 2 || !cfg.Env.Offline || !s.Debug {
		t.Errorf("env is %+v, debug %v", cfg.Env, s.Debug)
	}
	if cfg.Protocol.HandshakeTimeout != 8*time.Second || cfg.TCP.SndBuf != 4096 || cfg.TCP.KeepAlive || cfg.RPCClient.Timeout != 2*time.Second {
		t.Errorf("loaded %+v", cfg)
	}
	for _, want := range []string{"bucket", "tcp.readBufSize", "env.ipAddrs", "maxproc"} {
		if strings.Count(warnings, want) == 0 {
			t.Errorf("no warning about %s in\n%s", want, warnings)
		}
	}
	if !slices.Equal(cfg.Whitelist.Whitelist, []int64{123}) || cfg.Whitelist.WhiteLog != "white_list.log" || cfg.WebSocket.TLSOpen ||
		!slices.Equal(cfg.WebSocket.CertFile, []string{"cert.pem"}) || !slices.Equal(cfg.WebSocket.PrivateFile, []string{"private.pem"}) {
		t.Errorf("loaded %+v and %+v", cfg.Whitelist, cfg.WebSocket)
	}
	if s.Log.Dir != "/tmp" || s.Log.Verbosity != 5 {
		t.Errorf("log is %+v", s.Log)
	}
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestGoimsLogicFileLoads(t *testing.T) {
	s, _ := loadGoim(t, "logic", logic.DefaultConfig(), goimKeys(logic.IgnoredKeys()), `
perf = "0.0.0.0:8010"
[regions]
"bj" = ["北京", "天津"]
"sh" = ["上海"]
[node]
defaultDomain = "conn.goim.io"
hostDomain = ".goim.io"
heartbeat = "4m"
heartbeatMax = 2
tcpPort = 3101
wsPort = 3102
wssPort = 3103
regionWeight = 1.6
[backoff]
maxDelay = 300
baseDelay = 3
factor = 1.8
jitter = 0.3
[discovery]
nodes = ["127.0.0.1:7171"]
[rpcServer]
network = "tcp"
addr = ":3119"
timeout = "1s"
[rpcClient]
dial = "1s"
timeout = "1s"
[httpServer]
network = "tcp"
addr = ":3111"
readTimeout = "1s"
writeTimeout = "1s"
[kafka]
topic = "goim-push-topic"
brokers = ["10.0.0.1:9092"]
[redis]
network = "tcp"
addr = "10.0.0.2:6379"
active = 60000
idle = 1024
dialTimeout = "200ms"
readTimeout = "500ms"
writeTimeout = "500ms"
idleTimeout = "120s"
expire = "30m"
`, nil, "-logtostderr", "-stderrthreshold=INFO", "-host=logic-1")
	if s.Role.Kafka.Brokers[0] != "10.0.0.1:9092" || s.Role.Redis.Addr != "10.0.0.2:6379" || s.Role.Env.Host != "logic-1" {
		t.Errorf("loaded %+v", s.Role)
	}
	if err := s.Role.Validate(); err != nil {
		t.Error(err)
	}
}

func TestGoimsJobFileLoads(t *testing.T) {
	s, _ := loadGoim(t, "job", job.DefaultConfig(), goimKeys(job.IgnoredKeys()), `
perf = "0.0.0.0:8010"
[env]
zone = "sh001"
env = "dev"
[discovery]
nodes = ["127.0.0.1:7171"]
[kafka]
topic = "goim-push-topic"
group = "goim-push-group-job"
brokers = ["10.0.0.1:9092"]
[comet]
routineChan = 1024
routineSize = 32
[room]
batch = 20
signal = "1s"
idle = "15m"
`, nil)
	if s.Role.Kafka.Brokers[0] != "10.0.0.1:9092" {
		t.Errorf("loaded %+v", s.Role)
	}
	if err := s.Role.Validate(); err != nil {
		t.Error(err)
	}
}

func TestDiscoverysFileLoads(t *testing.T) {
	s, _ := loadGoim(t, "discovery", nodeConfig{Node: discovery.DefaultNodeConfig()}, discovery.IgnoredNodeKeys(), `
nodes = ["127.0.0.1:7171", "127.0.0.1:7172"]
enableProtect = false
[zones]
"sh002" = ["10.0.0.9:7171"]
[env]
region = "sh"
zone = "sh001"
deployEnv = "dev"
host = "test_server"
[httpServer]
addr = "127.0.0.1:7171"
timeout = "40s"
[httpClient]
dial = "1s"
keepAlive = "120s"
timeout = "40s"
`, nil)
	if len(s.Role.Node.Nodes) != 2 || s.Role.Node.Zones["sh002"][0] != "10.0.0.9:7171" || s.Role.Node.Env.Host != "test_server" {
		t.Errorf("loaded %+v", s.Role)
	}
	if err := s.Role.Node.Validate(); err != nil {
		t.Error(err)
	}
}
