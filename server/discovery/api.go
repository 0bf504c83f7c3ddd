package discovery

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bilibili/discovery/model"
)

// handler serves the protocol of bilibili/discovery: forms in, JSON out,
// HTTP 200 whatever the code, but for a node that refuses lists.
func (n *Node) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, read bool, h func(*form, *http.Request) answer) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, formLimit)
			if err := r.ParseForm(); err != nil {
				n.write(w, http.StatusOK, answer{Code: codeRequestError, Message: err.Error()})
				return
			}
			if read && n.protected() {
				n.write(w, http.StatusServiceUnavailable, answer{Code: -http.StatusServiceUnavailable, Message: "the node has just started: only registering works yet"})
				return
			}
			f := &form{values: r.Form}
			a := h(f, r)
			if f.err != nil {
				a = answer{Code: codeRequestError, Message: f.err.Error()}
			}
			n.write(w, http.StatusOK, a)
		})
	}
	// Changes are passed on in the order in which they were made here.
	inTurn := func(h func(*form, *http.Request) answer) func(*form, *http.Request) answer {
		return func(f *form, r *http.Request) answer {
			n.turn.Lock()
			defer n.turn.Unlock()
			return h(f, r)
		}
	}
	handle("POST /discovery/register", false, inTurn(n.register))
	handle("POST /discovery/renew", false, inTurn(n.renew))
	handle("POST /discovery/cancel", false, inTurn(n.cancel))
	handle("POST /discovery/set", false, inTurn(n.set))
	handle("GET /discovery/fetch/all", true, n.fetchAll)
	handle("GET /discovery/fetch", true, n.fetch)
	handle("GET /discovery/fetchs", true, n.fetchSeveral)
	handle("GET /discovery/poll", true, n.poll)
	handle("GET /discovery/polls", true, n.pollSeveral)
	handle("GET /discovery/nodes", true, n.nodes)
	return mux
}

func (n *Node) register(f *form, _ *http.Request) answer {
	arg := &model.ArgRegister{
		Region: f.optional("region"), Zone: f.text("zone"), Env: f.text("env"), AppID: f.text("appid"),
		Hostname: f.text("hostname"), Status: uint32(f.number("status")), Addrs: f.list("addrs"),
		Version: f.optional("version"), Metadata: f.optional("metadata"), Replication: f.flag("replication"),
		LatestTimestamp: f.number("latest_timestamp"), DirtyTimestamp: f.number("dirty_timestamp"), FromZone: f.flag("from_zone"),
	}
	switch {
	case f.err != nil:
		return answer{}
	case len(arg.Addrs) == 0:
		f.fail("addrs is missing")
		return answer{}
	case arg.Status != model.InstanceStatusUP && arg.Status != model.InstancestatusWating:
		f.fail("status is %d: 1 (up) or 2 (waiting) is needed", arg.Status)
		return answer{}
	}
	var metadata map[string]string
	if arg.Metadata != "" && json.Unmarshal([]byte(arg.Metadata), &metadata) != nil {
		f.fail("metadata is no JSON object of texts")
		return answer{}
	}
	in := model.NewInstance(arg)
	if arg.DirtyTimestamp > 0 {
		in.DirtyTimestamp = arg.DirtyTimestamp
	}
	if arg.LatestTimestamp > 0 {
		in.LatestTimestamp = arg.LatestTimestamp
	}
	copied := copyOf(in)
	n.registry.register(in)
	n.log.Debug("registered", "app", arg.AppID, "host", arg.Hostname, "zone", arg.Zone, "addrs", arg.Addrs)
	if !arg.Replication {
		n.peers.replicate(change{kind: changeRegister, instance: copied, fromOtherZone: arg.FromZone})
	}
	return answer{}
}

func (n *Node) renew(f *form, _ *http.Request) answer {
	zone, env, appID, hostname := f.text("zone"), f.text("env"), f.text("appid"), f.text("hostname")
	replication, dirty := f.flag("replication"), f.number("dirty_timestamp")
	if f.err != nil {
		return answer{}
	}
	in, ok := n.registry.renew(env, appID, zone, hostname)
	switch {
	case !ok:
		return answer{Code: codeNothingFound}
	case !replication:
		n.peers.replicate(change{kind: changeRenew, instance: in, fromOtherZone: zone != n.cfg.Env.Zone})
	case dirty > in.DirtyTimestamp:
		return answer{Code: codeNothingFound}
	case dirty < in.DirtyTimestamp:
		return answer{Code: codeConflict, Data: in}
	}
	return answer{Data: in}
}

func (n *Node) cancel(f *form, _ *http.Request) answer {
	zone, env, appID, hostname := f.text("zone"), f.text("env"), f.text("appid"), f.text("hostname")
	replication, at := f.flag("replication"), f.number("latest_timestamp")
	if f.err != nil {
		return answer{}
	}
	if at == 0 {
		at = time.Now().UnixNano()
	}
	in, ok := n.registry.cancel(env, appID, zone, hostname, at)
	if !ok {
		return answer{Code: codeNothingFound}
	}
	n.log.Debug("cancelled", "app", appID, "host", hostname, "zone", zone)
	if !replication {
		n.peers.replicate(change{kind: changeCancel, instance: in, fromOtherZone: zone != n.cfg.Env.Zone})
	}
	return answer{}
}

func (n *Node) set(f *form, _ *http.Request) answer {
	arg := &model.ArgSet{
		Region: f.optional("region"), Zone: f.text("zone"), Env: f.text("env"), AppID: f.text("appid"),
		Hostname: f.list("hostname"), Metadata: f.all("metadata"),
		Replication: f.flag("replication"), FromZone: f.flag("from_zone"), SetTimestamp: f.number("set_timestamp"),
	}
	for _, status := range f.list("status") {
		arg.Status = append(arg.Status, f.parse("status", status))
	}
	hosts := len(arg.Hostname)
	if (len(arg.Status) != 0 && len(arg.Status) != hosts) || (len(arg.Metadata) != 0 && len(arg.Metadata) != hosts) {
		f.fail("status and metadata are given once for each hostname, or not at all")
	}
	if f.err != nil {
		return answer{}
	}
	if arg.SetTimestamp == 0 {
		arg.SetTimestamp = time.Now().UnixNano()
	}
	if !n.registry.set(arg) {
		return answer{Code: codeRequestError, Message: "an instance is unknown, or a value is wrong"}
	}
	if !arg.Replication {
		n.peers.replicate(change{kind: changeSet, set: arg, fromOtherZone: arg.FromZone})
	}
	return answer{}
}

func (n *Node) fetchAll(*form, *http.Request) answer { return answer{Data: n.registry.all()} }

func (n *Node) fetch(f *form, _ *http.Request) answer {
	env, appID, status := f.text("env"), f.text("appid"), f.required("status")
	if f.err != nil {
		return answer{}
	}
	info, code := n.registry.fetch(env, appID, f.optional("zone"), 0, uint32(status))
	if code != codeOK {
		return answer{Code: code}
	}
	return answer{Data: info}
}

func (n *Node) fetchSeveral(f *form, _ *http.Request) answer {
	env, appIDs, status := f.text("env"), f.list("appid"), f.required("status")
	if f.err != nil {
		return answer{}
	}
	infos := map[string]*model.InstanceInfo{}
	for _, appID := range appIDs {
		if info, code := n.registry.fetch(env, appID, f.optional("zone"), 0, uint32(status)); code == codeOK {
			infos[appID] = info
		}
	}
	return answer{Data: infos}
}

func (n *Node) poll(f *form, r *http.Request) answer {
	arg := pollArg(f)
	if f.err != nil {
		return answer{}
	}
	arg.AppID, arg.LatestTimestamp = arg.AppID[:1], arg.LatestTimestamp[:1]
	if _, code := n.registry.fetch(arg.Env, arg.AppID[0], arg.Zone, 0, model.InstanceStatusUP); code == codeNothingFound {
		return answer{Code: codeNothingFound, Message: arg.AppID[0] + " not found"}
	}
	infos, _, ok := n.registry.poll(r.Context(), arg, false)
	if !ok {
		return unchanged(r)
	}
	return answer{Data: infos[arg.AppID[0]]}
}

// pollSeveral is what the original's client uses. The parameter absent is ours: the
// original's client would ask again at once if told that an application has gone.
func (n *Node) pollSeveral(f *form, r *http.Request) answer {
	arg := pollArg(f)
	absent := f.flag("absent")
	if f.err != nil {
		return answer{}
	}
	infos, missing, ok := n.registry.poll(r.Context(), arg, absent)
	if !ok {
		return unchanged(r)
	}
	return answer{Data: infos, Error: map[string][]string{strconv.Itoa(codeNothingFound): missing}}
}

// unchanged answers a poll that saw no change. When the node is about to end it cuts the
// connection instead: pollers must know that the next node they ask may have started empty.
func unchanged(r *http.Request) answer {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // how a handler of net/http says so
	}
	return answer{Code: codeNotModified}
}

func pollArg(f *form) *model.ArgPolls {
	arg := &model.ArgPolls{
		Zone: f.optional("zone"), Env: f.text("env"), AppID: f.list("appid"), Hostname: f.text("hostname"),
	}
	for _, latest := range f.list("latest_timestamp") {
		arg.LatestTimestamp = append(arg.LatestTimestamp, f.parse("latest_timestamp", latest))
	}
	if len(arg.AppID) == 0 {
		f.fail("appid is missing")
	}
	if len(arg.LatestTimestamp) == 0 {
		arg.LatestTimestamp = make([]int64, len(arg.AppID))
	}
	if len(arg.AppID) != len(arg.LatestTimestamp) {
		f.fail("%d appid and %d latest_timestamp: the same number is needed", len(arg.AppID), len(arg.LatestTimestamp))
	}
	return arg
}

func (n *Node) nodes(*form, *http.Request) answer {
	self := n.cfg.HTTPServer.Addr
	list := []*model.Node{{Addr: self, Zone: n.cfg.Env.Zone, Status: model.NodeStatusUP}}
	for _, p := range n.peers.all() {
		if p.sameZone {
			status := model.NodeStatusUP
			if p.lost() {
				status = model.NodeStatusLost
			}
			list = append(list, &model.Node{Addr: p.nodes()[0], Zone: n.cfg.Env.Zone, Status: status})
		}
	}
	return answer{Data: list}
}

// A form reads parameters; the first that is wrong makes err.
type form struct {
	values map[string][]string
	err    error
}

func (f *form) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

func (f *form) optional(name string) string {
	if values := f.values[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func (f *form) text(name string) string {
	value := f.optional(name)
	if value == "" {
		f.fail("%s is missing", name)
	}
	return value
}

func (f *form) all(name string) []string { return f.values[name] }

// list has the values of a repeated parameter; the original's nodes join some with commas.
func (f *form) list(name string) []string {
	var items []string
	for _, value := range f.values[name] {
		items = append(items, strings.Split(value, ",")...)
	}
	return slices.DeleteFunc(items, func(item string) bool { return item == "" })
}

func (f *form) parse(name, text string) int64 {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f.fail("%s is %q: a whole number is needed", name, text)
	}
	return number
}

func (f *form) number(name string) int64 {
	if text := f.optional(name); text != "" {
		return f.parse(name, text)
	}
	return 0
}

func (f *form) required(name string) int64 { return f.parse(name, f.text(name)) }

func (f *form) flag(name string) bool {
	text := f.optional(name)
	if text == "" {
		return false
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		f.fail("%s is %q: true or false is needed", name, text)
	}
	return value
}
