package discovery

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/bilibili/discovery/model"
)

const (
	evictAfter = 90 * time.Second // without a renewal
	pollWait   = 30 * time.Second // an answer to a poll comes at the latest then
	// protectShare is the share of expected renewals below which the network, rather than
	// the instances, is thought to be at fault, and nothing is evicted until evictAnyway.
	protectShare = 0.85
	evictAnyway  = time.Hour
	// onTheWay is how long a change may take from one node to the next, peers that are lost aside.
	onTheWay = 10 * time.Second
)

// A registry holds the instances that a node knows, in the data model of bilibili/discovery.
//
// The original's registry answers polls from a channel per host name, changes metadata maps
// that other goroutines read, and can lose a change between two polls. Here one lock orders
// changes and answers, instances are replaced and never changed, and a poll looks again at
// every change.
type registry struct {
	now func() time.Time

	mu       sync.RWMutex
	apps     map[appKey]*model.Apps // mu guards, and orders all use of the apps in it
	changed  chan struct{}          // mu guards; closed at the next change
	renewals int                    // mu guards; in this minute
	before   int                    // mu guards; renewals of the last whole minute
	gone     int64                  // mu guards; latest timestamp of applications that have gone, in ns
	ended    map[place]time.Time    // mu guards; when an instance was cancelled, in the last minute
}

type appKey struct{ env, appID string }

// A place is what names an instance.
type place struct{ env, appID, zone, hostname string }

func newRegistry() *registry {
	return &registry{now: time.Now, apps: map[appKey]*model.Apps{}, ended: map[place]time.Time{}, changed: make(chan struct{})}
}

// notify wakes all polls; mu must be held.
func (r *registry) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// register adds or replaces an instance, which is the registry's from then on. One with an
// older dirty timestamp than the one held changes nothing.
func (r *registry) register(in *model.Instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(in, in.LatestTimestamp)
}

// put is register with the lock held; changed is the time of the change, in ns.
func (r *registry) put(in *model.Instance, changed int64) {
	key := appKey{in.Env, in.AppID}
	apps := r.apps[key]
	if apps == nil {
		apps = model.NewApps()
		r.apps[key] = apps
		// Pollers that knew it before ask for what is newer than that.
		changed = max(changed, r.gone+1)
	}
	app, _ := apps.NewApp(in.Zone, in.AppID, changed)
	app.NewInstance(in, changed)
	r.notify()
}

// app is the application's part in a zone, nil when unknown; mu must be held.
func (r *registry) app(env, appID, zone string) (*model.Apps, *model.App) {
	apps := r.apps[appKey{env, appID}]
	if apps == nil || zone == "" {
		return apps, nil
	}
	if found := apps.App(zone); len(found) > 0 {
		return apps, found[0]
	}
	return apps, nil
}

// takeOver registers what another node knew, and was asked for at that time. Instances that
// ended here shortly before or since are not revived: the other may not have known of it. Nor
// are those that it should have evicted, as a node that is cut off from all doesn't.
func (r *registry) takeOver(apps map[string][]*model.Instance, asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, instances := range apps {
		for _, in := range instances {
			end, ended := r.ended[place{in.Env, in.AppID, in.Zone, in.Hostname}]
			if (ended && end.After(asked.Add(-onTheWay))) || r.now().Sub(time.Unix(0, in.RenewTimestamp)) > evictAfter {
				continue
			}
			r.put(in, in.LatestTimestamp)
		}
	}
}

// renew marks an instance as alive and returns a copy of it.
func (r *registry) renew(env, appID, zone, hostname string) (*model.Instance, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, app := r.app(env, appID, zone)
	if app == nil {
		return nil, false
	}
	in, ok := app.Renew(hostname)
	if ok {
		r.renewals++
	}
	return in, ok
}

// cancel removes an instance and returns it.
func (r *registry) cancel(env, appID, zone, hostname string, at int64) (*model.Instance, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[place{env, appID, zone, hostname}] = r.now()
	return r.remove(env, appID, zone, hostname, at)
}

// remove is cancel with the lock held.
func (r *registry) remove(env, appID, zone, hostname string, at int64) (*model.Instance, bool) {
	apps, app := r.app(env, appID, zone)
	if app == nil {
		return nil, false
	}
	var latest int64
	if info, err := apps.InstanceInfo("", 0, model.InstanceStatusUP); err == nil {
		latest = info.LatestTimestamp
	}
	in, left, ok := app.Cancel(hostname, at)
	if !ok {
		return nil, false
	}
	apps.UpdateLatest(at)
	if left == 0 {
		apps.Del(zone)
	}
	if len(apps.App("")) == 0 {
		r.gone = max(r.gone, at, latest)
		delete(r.apps, appKey{env, appID})
	}
	r.notify()
	return in, true
}

// set changes status and metadata of instances; nothing when one of them is unknown or a
// value is wrong.
func (r *registry) set(arg *model.ArgSet) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, app := r.app(arg.Env, arg.AppID, arg.Zone)
	if app == nil {
		return false
	}
	held := app.Instances()
	var next []*model.Instance
	for i, hostname := range arg.Hostname {
		at := slices.IndexFunc(held, func(in *model.Instance) bool { return in.Hostname == hostname })
		if at < 0 {
			return false
		}
		in := copyOf(held[at])
		if len(arg.Status) > 0 {
			status := uint32(arg.Status[i])
			if status != model.InstanceStatusUP && status != model.InstancestatusWating {
				return false
			}
			in.Status = status
		}
		if len(arg.Metadata) > 0 {
			if json.Unmarshal([]byte(arg.Metadata[i]), &in.Metadata) != nil {
				return false
			}
		}
		in.LatestTimestamp = arg.SetTimestamp
		in.DirtyTimestamp = max(arg.SetTimestamp, in.DirtyTimestamp)
		next = append(next, in)
	}
	for _, in := range next {
		r.put(in, arg.SetTimestamp)
	}
	return true
}

// fetch returns the application's instances of a zone ("" for all); ok is false when there
// are none, or none newer than latest.
func (r *registry) fetch(env, appID, zone string, latest int64, status uint32) (info *model.InstanceInfo, code int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.look(env, appID, zone, latest, status)
}

// look is fetch with the lock held.
func (r *registry) look(env, appID, zone string, latest int64, status uint32) (*model.InstanceInfo, int) {
	apps := r.apps[appKey{env, appID}]
	if apps == nil {
		return nil, codeNothingFound
	}
	info, err := apps.InstanceInfo(zone, latest, status)
	switch {
	case err == nil:
		return info, codeOK
	case zone != "" && len(apps.App(zone)) == 0:
		return nil, codeNothingFound
	default:
		return nil, codeNotModified
	}
}

// poll waits until one of arg's applications is newer than the poller knows it, for at most
// pollWait. With absent set, an application that the poller knows and that has gone counts
// as a change. missing are the applications without an instance.
func (r *registry) poll(ctx context.Context, arg *model.ArgPolls, absent bool) (infos map[string]*model.InstanceInfo, missing []string, ok bool) {
	timer := time.NewTimer(pollWait)
	defer timer.Stop()
	for {
		infos, missing = map[string]*model.InstanceInfo{}, nil
		gone := false
		r.mu.RLock()
		changed := r.changed
		for i, appID := range arg.AppID {
			info, code := r.look(arg.Env, appID, arg.Zone, arg.LatestTimestamp[i], model.InstanceStatusUP)
			switch code {
			case codeOK:
				infos[appID] = info
			case codeNothingFound:
				missing = append(missing, appID)
				gone = gone || absent && arg.LatestTimestamp[i] > 0
			}
		}
		r.mu.RUnlock()
		if len(infos) > 0 || gone {
			return infos, missing, true
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, missing, false
		case <-ctx.Done():
			return nil, missing, false
		}
	}
}

// all returns copies of every instance, by application.
func (r *registry) all() map[string][]*model.Instance {
	r.mu.RLock()
	defer r.mu.RUnlock()
	instances := map[string][]*model.Instance{}
	for key, apps := range r.apps {
		for _, app := range apps.App("") {
			for _, in := range app.Instances() {
				instances[key.appID] = append(instances[key.appID], copyOf(in))
			}
		}
	}
	return instances
}

// evict removes instances that stopped renewing; call it once a minute. As in the original,
// when far fewer renewed than should have, all are kept: it is the network then. A single
// one that is overdue is evicted all the same, or a small cluster would never lose any.
func (r *registry) evict() (evicted []*model.Instance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.renewals = r.renewals, 0
	now := r.now()
	for at, end := range r.ended {
		if now.Sub(end) > 2*onTheWay { // longer than an answer of a peer takes
			delete(r.ended, at)
		}
	}
	total := 0
	var overdue []*model.Instance
	for _, apps := range r.apps {
		for _, app := range apps.App("") {
			for _, in := range app.Instances() {
				total++
				if now.Sub(time.Unix(0, in.RenewTimestamp)) > evictAfter {
					overdue = append(overdue, in)
				}
			}
		}
	}
	perMinute := int(time.Minute / renewEvery)
	protect := len(overdue) > 1 && float64(r.before) < protectShare*float64(total*perMinute)
	for _, in := range overdue {
		if protect && now.Sub(time.Unix(0, in.RenewTimestamp)) < evictAnyway {
			continue
		}
		if _, ok := r.remove(in.Env, in.AppID, in.Zone, in.Hostname, now.UnixNano()); ok {
			evicted = append(evicted, in)
		}
	}
	return evicted
}

func copyOf(in *model.Instance) *model.Instance {
	next := *in
	next.Addrs = slices.Clone(in.Addrs)
	next.Metadata = cloneMetadata(in.Metadata)
	return &next
}
