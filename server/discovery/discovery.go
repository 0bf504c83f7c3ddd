// Package discovery says which processes live and where: it registers this one,
// watches the others and resolves gRPC targets, over the HTTP protocol of
// bilibili/discovery, so that goim's own processes see ours and ours see them.
// A node of that service can also be served in process.
//
// The client is our own. The original one (bilibili/discovery/naming) panics without
// nodes, blocks for ever when none answers, never reports that the last instance of an
// application has gone, and imports a web framework that samples the CPU from an init
// function. The tests run it against our node, and our client against the original's.
package discovery

import (
	"net"
	"os"
	"slices"
	"strings"
)

// The applications of a cluster, as goim names them.
const (
	AppComet = "goim.comet"
	AppLogic = "goim.logic"
	AppJob   = "goim.job"
)

// appSelf is the application that discovery's own nodes register as.
const appSelf = "infra.discovery"

// SchemeGRPC is the scheme of the addresses that instances register: "grpc://ip:port".
const SchemeGRPC = "grpc"

// Config says where discovery's nodes are.
type Config struct {
	Nodes []string `toml:"nodes" doc:"addresses (host:port) of discovery's nodes; any of them that answers is used"`
}

// DefaultConfig is a node on this machine, at its usual port.
func DefaultConfig() Config { return Config{Nodes: []string{"127.0.0.1:7171"}} }

// Env describes the process itself: where it runs, and for a comet how clients reach it.
// Flags and environment variables have goim's names.
type Env struct {
	Region    string   `toml:"region" flag:"region" env:"REGION" doc:"region of this process; logic prefers comets of the client's region"`
	Zone      string   `toml:"zone" flag:"zone" env:"ZONE" doc:"availability zone of this process"`
	DeployEnv string   `toml:"deployEnv" flag:"deploy.env" env:"DEPLOY_ENV" doc:"environment (dev, pre, prod, ...); processes see only those of their own"`
	Host      string   `toml:"host" flag:"host" doc:"name of this process in discovery, unique for each application; the machine's host name unless set"`
	Weight    int64    `toml:"weight" flag:"weight" env:"WEIGHT" doc:"share of new clients that this process is to get, relative to the others"`
	Addrs     []string `toml:"addrs" flag:"addrs" env:"ADDRS" doc:"public addresses of a comet, handed to clients"`
	Offline   bool     `toml:"offline" flag:"offline" env:"OFFLINE" doc:"whether a comet is to get no new clients"`
}

// DefaultEnv has the region, zone and environment that goim's start scripts use, and this
// machine's host name.
func DefaultEnv() Env {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return Env{Region: "sh", Zone: "sh001", DeployEnv: "dev", Host: host, Weight: 10}
}

// An Instance is one process of an application, as discovery knows it.
type Instance struct {
	AppID    string   `json:"appid"`
	Hostname string   `json:"hostname"` // unique within the application, zone and environment
	Region   string   `json:"region"`
	Zone     string   `json:"zone"`
	Env      string   `json:"env"`
	Version  string   `json:"version"`
	Addrs    []string `json:"addrs"` // "grpc://ip:port"
	// LatestTimestamp is when the instance last changed, in ns since 1970.
	LatestTimestamp int64             `json:"latest_timestamp"`
	Metadata        map[string]string `json:"metadata"`
}

// GRPCAddr is the host:port of the instance's first gRPC address, "" when it has none.
func (in Instance) GRPCAddr() string {
	for _, addr := range in.Addrs {
		if rest, ok := strings.CutPrefix(addr, SchemeGRPC+"://"); ok {
			return rest
		}
	}
	return ""
}

func (in Instance) clone() Instance {
	in.Addrs = slices.Clone(in.Addrs)
	in.Metadata = cloneMetadata(in.Metadata)
	return in
}

// AdvertiseAddr is the host:port under which others reach what listens on addr: an
// unspecified host (":3109", "0.0.0.0:3109") becomes this machine's own address.
func AdvertiseAddr(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = InternalIP()
	}
	return net.JoinHostPort(host, port)
}

// InternalIP is the first IPv4 address of an interface that is up and no loopback;
// 127.0.0.1 when there is none.
func InternalIP() string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "127.0.0.1"
	}
	for _, iface := range interfaces {
		if iface.Flags&net.FlagUp == 0 || iface.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := iface.Addrs()
		if err != nil {
			continue
		}
		for _, addr := range addrs {
			if ipNet, ok := addr.(*net.IPNet); ok && ipNet.IP.To4() != nil && !ipNet.IP.IsLinkLocalUnicast() {
				return ipNet.IP.String()
			}
		}
	}
	return "127.0.0.1"
}
