# The front door; CMake does the work.
BUILD  ?= build
JOBS   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PREFIX ?= /usr/local
CMAKE_FLAGS ?=
SECONDS_EACH ?= 600
BENCH_DIR ?= $(BUILD)/bench

.PHONY: all
all: $(BUILD)/CMakeCache.txt
	@cmake --build $(BUILD) --parallel $(JOBS)

$(BUILD)/CMakeCache.txt: CMakeLists.txt
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS)

.PHONY: help
help:
	@echo "make           build/tandem, optimised"
	@echo "make demo      install what is missing, build, answer three prompts with the small model"
	@echo "make web       build the chat page (needs Node.js and the network once), then the program with it"
	@echo "make quick     build and quick tests, under a minute"
	@echo "make check     install what is missing, then every check: gcc, clang, sanitizers, NEON, fuzzing"
	@echo "make asan      build and test with AddressSanitizer and UndefinedBehaviorSanitizer in build/asan"
	@echo "make tsan      the same with ThreadSanitizer in build/tsan"
	@echo "make fuzz      fuzz every target for SECONDS_EACH=$(SECONDS_EACH) seconds"
	@echo "make soak      1,000 connections to tandem serve, 32 of them streams, for SECONDS_EACH=$(SECONDS_EACH) seconds"
	@echo "make format    clang-format all sources;  make hooks: check them before each commit"
	@echo "make bench     measure gpt-oss-20b at full size (random weights) in BENCH_DIR=$(BENCH_DIR)"
	@echo "make install   to PREFIX=$(PREFIX), with the man page; DESTDIR is understood"

# Without Node.js the program is whole but for its page.
.PHONY: web
web:
	@scripts/web.sh
	@$(MAKE) --no-print-directory all

.PHONY: demo
demo:
	@scripts/setup.sh
	@scripts/web.sh || [ $$? -eq 77 ]
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) >/dev/null
	@cmake --build $(BUILD) --parallel $(JOBS) --target tandem
	@scripts/demo.sh $(BUILD)/tandem $(BUILD)/demo

.PHONY: install
install: all
	@cmake --install $(BUILD) --prefix $(PREFIX)

.PHONY: quick
quick:
	@scripts/setup.sh
	@scripts/check.sh quick

.PHONY: check
check:
	@scripts/setup.sh --check
	@scripts/check.sh

.PHONY: bench
bench:
	@scripts/setup.sh
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) >/dev/null
	@cmake --build $(BUILD) --parallel $(JOBS) --target tandem
	@scripts/bench.sh $(BUILD)/tandem $(BENCH_DIR)

.PHONY: soak
soak: all
	@node bench/soak.mjs $(BUILD)/tandem --seconds $(SECONDS_EACH)

.PHONY: asan tsan
asan tsan:
	@cmake -S . -B $(BUILD)/$@ -DTD_$(if $(filter asan,$@),ASAN,TSAN)=ON $(CMAKE_FLAGS)
	@cmake --build $(BUILD)/$@ --parallel $(JOBS)
	@ctest --test-dir $(BUILD)/$@ --no-tests=error --output-on-failure -j $(JOBS) -L quick

.PHONY: fuzz
fuzz:
	@CC=clang cmake -S . -B $(BUILD)/fuzz -DTD_ASAN=ON -DTD_FUZZ=ON -DTD_TESTS=OFF
	@cmake --build $(BUILD)/fuzz --parallel $(JOBS)
	@for target in fuzz/fuzz_*.c; do \
	    name=$$(basename $$target .c); corpus=fuzz/corpus/$${name#fuzz_}; \
	    mkdir -p $(BUILD)/fuzz/found/$$name; echo "== $$name"; \
	    $(BUILD)/fuzz/fuzz/$$name -max_total_time=$(SECONDS_EACH) -rss_limit_mb=2048 -malloc_limit_mb=512 \
	        -print_final_stats=1 -verbosity=0 -artifact_prefix=$(BUILD)/fuzz/found/$$name- \
	        $(BUILD)/fuzz/found/$$name $$corpus || exit 1; \
	done

.PHONY: format hooks
format:
	@clang-format -i $$(find src tests fuzz include examples tools -name '*.[ch]')
hooks:
	@ln -sf ../../tools/pre_commit.sh .git/hooks/pre-commit
