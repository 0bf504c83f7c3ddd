package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
)

// Ports are a run's listening ports: outside of the kernel's range for outgoing
// connections, or one of ten thousand clients may already have the number that a server
// wants. Each is reserved by a socket in the abstract namespace, so that runs beside each
// other don't choose the same ones; the reservation ends with the process.
type Ports struct {
	held []net.Listener
	next int
	low  int // ports from low to high are tried
	high int
}

const lowestPort = 10000 // below it lie the ports of services that a machine may have

// localPortRange reads the kernel's range for outgoing connections.
func localPortRange(text string) (low, high int, err error) {
	if _, err := fmt.Sscan(text, &low, &high); err != nil || low > high {
		return 0, 0, fmt.Errorf("ip_local_port_range is %q, two numbers are wanted", strings.TrimSpace(text))
	}
	return low, high, nil
}

// span returns the larger part of the ports from lowestPort to 65535 outside of
// [low, high], or an error that says how to make one.
func span(low, high int) (first, last int, err error) {
	first, last = lowestPort, min(low-1, 65535)
	if 65535-high > last-first {
		first, last = max(high+1, lowestPort), 65535
	}
	if last-first < 100 {
		return 0, 0, fmt.Errorf("the kernel takes ports %d to %d for outgoing connections, which leaves none to listen on: sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"", low, high)
	}
	return first, last, nil
}

// NewPorts starts at a random place of the usable range.
func NewPorts() (*Ports, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return nil, fmt.Errorf("find ports: %w", err)
	}
	low, high, err := localPortRange(string(text))
	if err != nil {
		return nil, err
	}
	p := &Ports{}
	if p.low, p.high, err = span(low, high); err != nil {
		return nil, err
	}
	p.next = p.low + rand.IntN(p.high-p.low+1)
	return p, nil
}

var errNoPort = errors.New("no free port left")

// Take returns an address 127.0.0.1:port on which nobody listens.
func (p *Ports) Take() (string, error) {
	for range p.high - p.low + 1 {
		port := p.next
		if p.next++; p.next > p.high {
			p.next = p.low
		}
		reservation, err := net.Listen("unix", fmt.Sprintf("@barrage-port-%d", port))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			reservation.Close()
			continue
		}
		l.Close()
		p.held = append(p.held, reservation)
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
	}
	return "", errNoPort
}

// Close gives all ports back.
func (p *Ports) Close() {
	for _, l := range p.held {
		l.Close()
	}
}
