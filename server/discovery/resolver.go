package discovery

import (
	"context"
	"fmt"

	"google.golang.org/grpc/resolver"
)

// roundRobin is the service config that the resolver asks for.
const roundRobin = `{"loadBalancingConfig":[{"round_robin":{}}]}`

// Resolver builds gRPC resolvers for targets like "discovery:///goim.logic": the gRPC
// addresses of the application's instances, those of the client's own zone if it has any
// there, used round robin. Pass it with grpc.WithResolvers.
func (c *Client) Resolver() resolver.Builder { return builder{c} }

type builder struct{ client *Client }

func (b builder) Scheme() string { return "discovery" }

func (b builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	appID := target.Endpoint()
	if appID == "" {
		return nil, fmt.Errorf("target %q names no application", target.String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &grpcResolver{client: b.client, appID: appID, cc: cc, cancel: cancel, done: make(chan struct{})}
	go r.run(ctx, b.client.Watch(ctx, appID))
	return r, nil
}

type grpcResolver struct {
	client *Client
	appID  string
	cc     resolver.ClientConn
	cancel context.CancelFunc
	done   chan struct{} // closed when run has ended
}

// ResolveNow does nothing: the watch brings every change.
func (r *grpcResolver) ResolveNow(resolver.ResolveNowOptions) {}

func (r *grpcResolver) Close() {
	r.cancel()
	<-r.done
}

func (r *grpcResolver) run(ctx context.Context, lists <-chan []Instance) {
	defer close(r.done)
	config := r.cc.ParseServiceConfig(roundRobin)
	had := false
	for {
		select {
		case <-ctx.Done():
			return
		case list := <-lists:
			endpoints := r.endpoints(list)
			if had && len(endpoints) == 0 {
				r.client.log.Warn("discovery lists no instance any more", "app", r.appID)
			}
			had = len(endpoints) > 0
			// An error asks for another try; the next list is one.
			_ = r.cc.UpdateState(resolver.State{Endpoints: endpoints, ServiceConfig: config})
		}
	}
}

func (r *grpcResolver) endpoints(list []Instance) []resolver.Endpoint {
	var near, all []resolver.Endpoint
	for _, in := range list {
		addr := in.GRPCAddr()
		if addr == "" {
			r.client.log.Warn("instance without a gRPC address", "app", in.AppID, "host", in.Hostname, "addrs", in.Addrs)
			continue
		}
		endpoint := resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr}}}
		all = append(all, endpoint)
		if in.Zone == r.client.env.Zone {
			near = append(near, endpoint)
		}
	}
	if len(near) > 0 {
		return near
	}
	return all
}
