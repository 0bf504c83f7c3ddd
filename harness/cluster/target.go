package cluster

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// A Target is a cluster that runs already, here or elsewhere: goim's or ours.
type Target struct {
	TCP    []string `json:"tcp"`       // host:port of comets for TCP clients
	WS     []string `json:"websocket"` // and for WebSocket clients
	TCPTLS []string `json:"tcp_tls"`   // the same inside TLS
	WSS    []string `json:"wss"`
	Push   string   `json:"push"` // host:port of logic's HTTP API
}

// ParseTarget reads a target as "tcp=HOST:PORT,ws=HOST:PORT,push=HOST:PORT"; tcp, ws,
// tcp+tls and wss may be there several times, and must not all be left out.
func ParseTarget(text string) (*Target, error) {
	var t Target
	for item := range strings.SplitSeq(text, ",") {
		name, addr, ok := strings.Cut(strings.TrimSpace(item), "=")
		if host, port, err := net.SplitHostPort(addr); !ok || err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("target %q: write it as tcp=HOST:PORT,ws=HOST:PORT,push=HOST:PORT", item)
		}
		switch name {
		case "tcp":
			t.TCP = append(t.TCP, addr)
		case "ws":
			t.WS = append(t.WS, addr)
		case "tcp+tls":
			t.TCPTLS = append(t.TCPTLS, addr)
		case "wss":
			t.WSS = append(t.WSS, addr)
		case "push":
			if t.Push != "" {
				return nil, errors.New("target: push is there twice")
			}
			t.Push = addr
		default:
			return nil, fmt.Errorf("target %q: %q is none of tcp, ws, tcp+tls, wss, push", item, name)
		}
	}
	switch {
	case t.Push == "":
		return nil, errors.New("target: push is missing, the address of logic's HTTP API")
	case len(t.TCP)+len(t.WS)+len(t.TCPTLS)+len(t.WSS) == 0:
		return nil, errors.New("target: tcp, ws, tcp+tls and wss are all missing, one address of a comet is needed")
	}
	return &t, nil
}

// External returns the target as a cluster without processes of ours: nothing is started,
// nothing is stopped, and what it uses is not known.
func External(t *Target) *Cluster {
	return &Cluster{Push: t.Push, TCP: t.TCP, WS: t.WS, TCPTLS: t.TCPTLS, WSS: t.WSS, stopped: true}
}
