package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	statusUp   = "1"
	renewalEnd = time.Second // for a renewal that is under way when its registration ends
)

// A Registration keeps one instance known to discovery: it renews it, and registers it
// anew when a node has forgotten it.
type Registration struct {
	client *Client
	cancel context.CancelFunc
	done   chan struct{} // closed when the renewing goroutine has ended

	mu       sync.Mutex // held over the calls too, so that an older state never follows a newer one
	instance Instance
	dirty    bool // metadata that no node has taken yet
	closed   bool
}

// Register makes in known and keeps it so until Close. Region, Zone, Env and Hostname
// default to the client's. It waits, trying again, until a node has taken the instance or
// ctx ends.
func (c *Client) Register(ctx context.Context, in Instance) (*Registration, error) {
	in = c.withDefaults(in.clone())
	var retry backoff
	for {
		err := c.register(ctx, in)
		if err == nil {
			break
		}
		if hasCode(err, codeRequestError) {
			return nil, fmt.Errorf("register %s/%s: %w", in.AppID, in.Hostname, err)
		}
		if ctx.Err() != nil { // a node may have taken it all the same
			if err := c.leave(in); err != nil {
				c.log.Debug("take back what may have been registered", "app", in.AppID, "host", in.Hostname, "err", err)
			}
		} else if retry.shouldLog() {
			c.log.Warn("waiting for discovery to register", "app", in.AppID, "host", in.Hostname, "err", err)
		}
		if !retry.sleep(ctx) {
			return nil, fmt.Errorf("register %s/%s: %w (last: %w)", in.AppID, in.Hostname, context.Cause(ctx), err)
		}
	}
	c.log.Info("registered in discovery", "app", in.AppID, "host", in.Hostname, "addrs", in.Addrs)
	renewCtx, cancel := context.WithCancel(context.Background())
	r := &Registration{client: c, cancel: cancel, done: make(chan struct{}), instance: in}
	go r.keep(renewCtx)
	return r, nil
}

func (c *Client) withDefaults(in Instance) Instance {
	for _, field := range []struct {
		dst *string
		def string
	}{{&in.Region, c.env.Region}, {&in.Zone, c.env.Zone}, {&in.Env, c.env.DeployEnv}, {&in.Hostname, c.env.Host}} {
		if *field.dst == "" {
			*field.dst = field.def
		}
	}
	return in
}

// Update sets the instance's metadata; a key that is left out stays as a node has it, unless that
// forgets the instance. When no node takes it now it is sent with the next renewal, and the error
// says why.
func (r *Registration) Update(metadata map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errors.New("update discovery metadata: the registration is closed")
	}
	r.instance.Metadata = cloneMetadata(metadata)
	r.dirty = true
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return r.set(ctx)
}

// Close takes the instance out of discovery. Only the first call does something.
func (r *Registration) Close() error {
	r.cancel()
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return r.client.leave(r.instance)
}

// leave takes an instance out of discovery.
func (c *Client) leave(in Instance) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	params := identity(in)
	err := c.call(ctx, http.MethodPost, "cancel", params, nil)
	if err != nil && len(c.cfg.Nodes) > 1 && !hasCode(err, codeNothingFound) {
		err = c.call(ctx, http.MethodPost, "cancel", params, nil) // the next node
	}
	if err != nil && !hasCode(err, codeNothingFound) {
		return fmt.Errorf("leave discovery as %s/%s: %w", in.AppID, in.Hostname, err)
	}
	return nil
}

// keep renews until ctx ends. After a failure it tries again within seconds, so that a node
// that restarted knows us again long before its clients would miss us.
func (r *Registration) keep(ctx context.Context) {
	defer close(r.done)
	timer := time.NewTimer(r.client.renew)
	defer timer.Stop()
	var retry backoff
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := r.renewOnce(ctx)
		switch {
		case err == nil && retry.failing():
			r.client.log.Info("discovery has us again", "app", r.instance.AppID, "host", r.instance.Hostname)
			retry.reset()
		case err != nil && ctx.Err() == nil:
			if retry.shouldLog() {
				r.client.log.Warn("renew in discovery", "app", r.instance.AppID, "host", r.instance.Hostname, "err", err)
			}
			if !retry.sleep(ctx) {
				return
			}
			timer.Reset(0)
			continue
		}
		timer.Reset(r.client.renew)
	}
}

// renewOnce is not cut off with ctx, but a while later: what has been sent must not reach
// the node after the instance was taken out, and bring it back.
func (r *Registration) renewOnce(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	closing := ctx
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	defer context.AfterFunc(closing, func() { time.AfterFunc(renewalEnd, cancel) })()
	err := r.client.call(ctx, http.MethodPost, "renew", identity(r.instance), nil)
	if hasCode(err, codeNothingFound) {
		return r.registerAgain(ctx)
	}
	if err != nil {
		return err
	}
	if r.dirty {
		return r.set(ctx)
	}
	return nil
}

// set sends the metadata; mu must be held.
func (r *Registration) set(ctx context.Context) error {
	metadata, err := json.Marshal(r.instance.Metadata)
	if err != nil {
		return fmt.Errorf("encode discovery metadata: %w", err)
	}
	params := identity(r.instance)
	params.Set("version", r.instance.Version)
	params.Set("status", statusUp)
	params.Set("metadata", string(metadata))
	err = r.client.call(ctx, http.MethodPost, "set", params, nil)
	if hasCode(err, codeRequestError, codeNothingFound) { // it doesn't know us
		return r.registerAgain(ctx)
	}
	if err == nil {
		r.dirty = false
	}
	return err
}

// registerAgain makes a node that has forgotten the instance know it; mu must be held.
func (r *Registration) registerAgain(ctx context.Context) error {
	if err := r.client.register(ctx, r.instance); err != nil {
		return err
	}
	r.dirty = false
	r.client.log.Info("registered anew in discovery", "app", r.instance.AppID, "host", r.instance.Hostname)
	return nil
}

func (c *Client) register(ctx context.Context, in Instance) error {
	metadata, err := json.Marshal(in.Metadata)
	if err != nil {
		return fmt.Errorf("encode discovery metadata: %w", err)
	}
	params := identity(in)
	params.Set("version", in.Version)
	params.Set("status", statusUp)
	params.Set("metadata", string(metadata))
	for _, addr := range in.Addrs {
		params.Add("addrs", addr)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.call(ctx, http.MethodPost, "register", params, nil)
}

// identity is the set of parameters that name an instance.
func identity(in Instance) url.Values {
	return url.Values{
		"region":   {in.Region},
		"zone":     {in.Zone},
		"env":      {in.Env},
		"appid":    {in.AppID},
		"hostname": {in.Hostname},
	}
}
