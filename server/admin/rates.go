package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
)

// rates say how much of the waiting goes into the profiles mutex and block. Both are off
// until somebody asks for them: recording costs time.
type rates struct {
	MutexFraction    int `json:"mutex_fraction"` // one in so many contentions, 0 none
	BlockNanoseconds int `json:"block_rate_ns"`  // one for each so many ns waited, 0 none
}

// putRates sets the rates of this process.
func (s *Server) putRates(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<10))
	var wanted rates
	if err == nil {
		err = json.Unmarshal(body, &wanted)
	}
	if err == nil && (wanted.MutexFraction < 0 || wanted.BlockNanoseconds < 0) {
		err = fmt.Errorf("mutex_fraction %d, block_rate_ns %d: neither may be negative", wanted.MutexFraction, wanted.BlockNanoseconds)
	}
	if err != nil {
		http.Error(w, err.Error()+`; send {"mutex_fraction": 100, "block_rate_ns": 1000000}`, http.StatusBadRequest)
		return
	}
	runtime.SetMutexProfileFraction(wanted.MutexFraction)
	runtime.SetBlockProfileRate(wanted.BlockNanoseconds)
	s.log.Info("profile rates are set", "mutex_fraction", wanted.MutexFraction, "block_rate_ns", wanted.BlockNanoseconds)
}
