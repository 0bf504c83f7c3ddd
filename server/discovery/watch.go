package discovery

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Watch sends the whole list of appID's instances, of all zones, sorted by zone and host
// name: once when it is first known (it may be empty), then whenever it changes. The
// channel holds one list, always the newest; it is never closed, and gets nothing more
// after ctx has ended. The lists are the receiver's to read, not to change.
//
// While no node answers the last list stays good. After such a time, or a node's restart,
// instances that the list lacks are kept for another 40 s: the node may have restarted, and
// they renew.
func (c *Client) Watch(ctx context.Context, appID string) <-chan []Instance {
	w := &watch{
		client: c,
		appID:  appID,
		name:   c.prefix + "-" + strconv.FormatUint(c.polls.Add(1), 10),
		out:    make(chan []Instance, 1),
	}
	go w.run(ctx)
	return w.out
}

// A watch follows one application. Its fields are owned by the goroutine of run.
type watch struct {
	client *Client
	appID  string
	name   string // of this poll at the node
	out    chan []Instance

	known     bool       // whether a node has ever answered
	listed    []Instance // as the node said last
	published []Instance // as sent last
	latest    int64      // timestamp of listed, for the next poll
	restarts  uint64     // of nodes, when listed came
	node      uint64     // that listed came from: timestamps are each node's own
	lost      bool       // the nodes could not be reached, or one started anew
	graceEnd  time.Time  // until then nobody is taken off the list
}

// appInfo is the state of an application in an answer.
type appInfo struct {
	Instances       map[string][]Instance `json:"instances"` // by zone
	LatestTimestamp int64                 `json:"latest_timestamp"`
}

func (w *watch) run(ctx context.Context) {
	var retry backoff
	poll := false // the first request answers at once, the others when something changed
	for ctx.Err() == nil {
		if node := w.client.node.Load(); node != w.node {
			w.node, w.latest, poll = node, 0, false
		}
		err := w.ask(ctx, poll)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if retry.failing() {
				w.client.log.Info("discovery answers again", "app", w.appID)
				retry.reset()
			}
			poll = true
			w.publish(ctx)
		case poll && hasCode(err, codeNotModified):
			// The original node says nothing when the last instance goes: look.
			poll = len(w.listed) == 0
			w.publish(ctx) // the grace may be over
		default:
			if retry.shouldLog() {
				w.client.log.Warn("waiting for discovery", "app", w.appID, "err", err)
			}
			w.lost, poll = true, false
			if !retry.sleep(ctx) {
				return
			}
		}
	}
}

// ask gets the application's state from the node, at once or, as a poll, when it differs
// from the one known.
func (w *watch) ask(ctx context.Context, poll bool) error {
	params := url.Values{"env": {w.client.env.DeployEnv}, "appid": {w.appID}}
	if !poll {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		params.Set("status", statusUp)
		var info appInfo
		err := w.client.call(ctx, http.MethodGet, "fetch", params, &info)
		if hasCode(err, codeNothingFound) {
			w.take(appInfo{}) // 0: what comes back may be older than what went
			return nil
		}
		if err == nil {
			w.take(info)
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	params.Set("hostname", w.name)
	params.Set("latest_timestamp", strconv.FormatInt(w.latest, 10))
	if len(w.listed) > 0 {
		params.Set("absent", "1") // our own nodes answer when the application has gone
	}
	var infos map[string]*appInfo
	if err := w.client.call(ctx, http.MethodGet, "polls", params, &infos); err != nil {
		return err
	}
	info := infos[w.appID]
	if info == nil {
		if params.Get("absent") == "" {
			return fmt.Errorf("discovery polls: an answer without %s", w.appID)
		}
		info = &appInfo{}
	}
	w.take(*info)
	return nil
}

func (w *watch) take(info appInfo) {
	w.listed = w.listed[:0:0]
	for _, instances := range info.Instances {
		w.listed = append(w.listed, instances...)
	}
	slices.SortFunc(w.listed, byPlace)
	w.latest = info.LatestTimestamp
	if restarts := w.client.restarts.Load(); restarts != w.restarts {
		w.restarts, w.lost = restarts, true
	}
	if w.lost && w.known {
		w.graceEnd = time.Now().Add(w.client.grace)
	}
	w.known, w.lost = true, false
}

// publish sends the list if it differs from the one sent last. Instances that a node has
// just failed to list stay in it until graceEnd.
func (w *watch) publish(ctx context.Context) {
	list := w.listed
	if time.Now().Before(w.graceEnd) {
		list = slices.Clone(list)
		for _, in := range w.published {
			if _, found := slices.BinarySearchFunc(w.listed, in, byPlace); !found {
				list = append(list, in)
			}
		}
		slices.SortFunc(list, byPlace)
	}
	if w.published != nil && len(list) == len(w.published) && (len(list) == 0 || reflect.DeepEqual(list, w.published)) {
		return
	}
	if list == nil {
		list = []Instance{}
	}
	w.published = list
	w.client.log.Debug("discovery list", "app", w.appID, "instances", len(list))
	select {
	case <-w.out: // nobody has taken the older one
	default:
	}
	if ctx.Err() == nil {
		w.out <- list // never blocks: there is room for one, and nobody else sends
	}
}

func byPlace(a, b Instance) int {
	if a.Zone != b.Zone {
		return strings.Compare(a.Zone, b.Zone)
	}
	return strings.Compare(a.Hostname, b.Hostname)
}
