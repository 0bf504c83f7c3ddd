// Package route picks the logic process for each call of a comet: the one with the fewest
// calls under way, in turn where several have as few, so that one that hangs gets the least.
// Calls for many sessions go to those alone that know such calls.
package route

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// ServiceConfig makes a gRPC client pick by this package.
const ServiceConfig = `{"loadBalancingConfig":[{"` + policy + `":{}}]}`

const policy = "barrage_logic"

// plainFor is how long a process that doesn't know calls for many sessions, as goim's, is not
// asked again: it may have been replaced by one that does.
const plainFor = time.Minute

// errPlain is what a call for many sessions gets where no process knows such calls.
var errPlain = status.Error(codes.Unimplemented, "no logic process takes many sessions in one call")

// gRPC's policies can't be registered at any later time.
func init() { balancer.Register(builder{}) }

type builder struct{}

// Name returns the policy's name in a service config.
func (builder) Name() string { return policy }

// Build returns the policy of one client.
func (builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	c := &client{ClientConn: cc, nodes: make(map[string]*node), now: time.Now}
	return endpointsharding.NewBalancer(c, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
}

// A client makes pickers of its own where the policy below it would have others.
type client struct {
	balancer.ClientConn
	now func() time.Time

	mu    sync.Mutex
	nodes map[string]*node // mu guards; by address
}

// A node is what is known of one logic process, for as long as it is there.
type node struct {
	calls atomic.Int64 // under way
	plain atomic.Int64 // unix nanoseconds until which it isn't asked for many sessions
}

// UpdateState takes the processes' states.
func (c *client) UpdateState(s balancer.State) {
	children := endpointsharding.ChildStatesFromPicker(s.Picker)
	c.mu.Lock()
	nodes := make(map[string]*node, len(children))
	p := &picker{now: c.now}
	for _, child := range children {
		if len(child.Endpoint.Addresses) == 0 {
			continue
		}
		addr := child.Endpoint.Addresses[0].Addr
		n := c.nodes[addr]
		if n == nil {
			n = &node{}
		}
		nodes[addr] = n
		if child.State.ConnectivityState == connectivity.Ready {
			p.ready = append(p.ready, choice{n, child.State.Picker})
		}
	}
	c.nodes = nodes
	c.mu.Unlock()
	if len(p.ready) > 0 {
		s.Picker = p
	}
	c.ClientConn.UpdateState(s)
}

// A picker chooses among the processes that are connected.
type picker struct {
	ready []choice
	turn  atomic.Uint32
	now   func() time.Time
}

type choice struct {
	*node
	picker balancer.Picker
}

// Pick returns the process for one call.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	many := strings.HasSuffix(info.FullMethodName, "All") // as the methods for many sessions are named
	var best *choice
	first := int(p.turn.Add(1) % uint32(len(p.ready)))
	for i := range p.ready {
		c := &p.ready[(first+i)%len(p.ready)]
		if many && p.now().UnixNano() < c.plain.Load() {
			continue
		}
		if best == nil || c.calls.Load() < best.calls.Load() {
			best = c
		}
	}
	if best == nil {
		return balancer.PickResult{}, errPlain
	}
	result, err := best.picker.Pick(info)
	if err != nil {
		return result, err
	}
	best.calls.Add(1)
	done := result.Done
	result.Done = func(info balancer.DoneInfo) {
		best.calls.Add(-1)
		if many && status.Code(info.Err) == codes.Unimplemented {
			best.plain.Store(p.now().Add(plainFor).UnixNano())
		}
		if done != nil {
			done(info)
		}
	}
	return result, nil
}
