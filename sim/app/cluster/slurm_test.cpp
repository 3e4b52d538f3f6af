#include "sim/app/cluster/slurm.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <doctest/doctest.h>

#include "sim/app/process_pool.hpp"
#include "sim/core/check.hpp"
#include "sim/core/test_folder.hpp"

namespace nearkv {

namespace fs = std::filesystem;

namespace {

/// Commands of a Slurm that says what a test wants, on the path as long as the object lives.
class ScriptedSlurm {
 public:
  ScriptedSlurm() : path_(std::getenv("PATH")) {
    setenv("PATH", (folder_.path().string() + ":" + path_).c_str(), 1);
    for (const char* name : {"sbatch", "squeue", "scontrol"}) {
      say(name, "exit 1");
    }
  }
  ~ScriptedSlurm() { setenv("PATH", path_.c_str(), 1); }
  ScriptedSlurm(const ScriptedSlurm&) = delete;
  ScriptedSlurm& operator=(const ScriptedSlurm&) = delete;

  void say(const std::string& name, const std::string& script) const {
    const fs::path file = folder_.write(name, "#!/bin/sh\n" + script + "\n");
    fs::permissions(file, fs::perms::owner_all);
  }
  [[nodiscard]] const fs::path& folder() const { return folder_.path(); }

 private:
  TestFolder folder_;
  std::string path_;
};

std::string refusal_of(const Slurm& slurm, const SlurmArray& array) {
  try {
    static_cast<void>(slurm.submit(array));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("slurm: a job is submitted with what it needs, and its number read past warnings") {
  const ScriptedSlurm commands;
  commands.say("sbatch",
               "printf '%s\\n' \"$@\" > \"${0%/*}/words\"\n"
               "echo 'sbatch: warning: 3 nodes' >&2; echo '17;cluster'");
  const SlurmArray array{.name = "nearkv_a",
                         .script = "/x/task.sh",
                         .logs = "/x/logs",
                         .tasks = 12,
                         .cores = 4,
                         .options = {"partition=short", "--comment=a b"}};
  CHECK(Slurm().submit(array) == "17");
  std::ifstream stream(commands.folder() / "words");
  std::string words;
  for (std::string word; std::getline(stream, word);) {
    words += "<" + word + ">";
  }
  CHECK(words ==
        "<--parsable><--requeue><--open-mode=append><--job-name=nearkv_a><--array=0-11>"
        "<--cpus-per-task=4><--output=/x/logs/task_%a.log><--partition=short><--comment=a b>"
        "</x/task.sh>");
}

TEST_CASE("slurm: names reach sbatch as they are, and no shell on the way") {
  const ScriptedSlurm commands;
  commands.say("sbatch",
               "printf '<%s>' \"$@\" > \"${0%/*}/words\"\n"
               "echo 17");
  const std::string hostile = "/a b'\"$(touch broken)`touch broken`;\n#SBATCH --uid=root/%j";
  CHECK(Slurm().submit({.name = "nearkv_a",
                        .script = hostile + "/task.sh",
                        .logs = hostile,
                        .tasks = 1,
                        .cores = 1,
                        .options = {"comment=$(touch broken)"}}) == "17");
  std::ifstream stream(commands.folder() / "words");
  const std::string words{std::istreambuf_iterator<char>(stream), {}};
  const std::string logs =
      "/a b'\"$(touch broken)`touch broken`;\n#SBATCH --uid=root/%%j/task_%a.log";
  CHECK(words.find("<--output=" + logs + "><--comment=$(touch broken)><" + hostile + "/task.sh>") !=
        std::string::npos);
  CHECK_FALSE(fs::exists("broken"));
}

TEST_CASE("slurm: what sbatch refuses is said in its words") {
  const ScriptedSlurm commands;
  commands.say("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1");
  CHECK(refusal_of(Slurm(), {}) ==
        "sbatch refused the job: sbatch: error: invalid partition specified: x");
  commands.say("sbatch", "echo 'Submitted, but under no number'");
  CHECK(refusal_of(Slurm(), {}) == "sbatch refused the job: Submitted, but under no number");
  commands.say("sbatch", "exit 1");
  CHECK(refusal_of(Slurm(), {}) == "sbatch refused the job: it said nothing");
}

TEST_CASE("slurm: tasks of a job, of one that is forgotten, and of a cluster that is silent") {
  const ScriptedSlurm commands;
  commands.say("squeue", "echo '17_3|RUNNING|None'; echo '17_5|PENDING|Resources'");
  const auto tasks = Slurm().tasks_of("17");
  REQUIRE(tasks.has_value());
  REQUIRE(tasks->size() == 2);
  CHECK(tasks->at(1).task == 5);
  CHECK(tasks->at(1).state == "PENDING");
  CHECK(tasks->at(1).reason == "Resources");
  commands.say("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1");
  CHECK(Slurm().tasks_of("17").value().empty());
  commands.say("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1");
  CHECK_FALSE(Slurm().tasks_of("17").has_value());
}

TEST_CASE("slurm: lines of squeue that are no tasks of the job are left out") {
  const auto tasks = read_squeue(
      "squeue: warning\n171_1|RUNNING|None\n17|RUNNING|None\n17_x|RUNNING|None\n17_2|RUNNING|\n",
      "17");
  REQUIRE(tasks.size() == 1);
  CHECK(tasks[0].task == 2);
  CHECK(tasks[0].reason.empty());
}

TEST_CASE("slurm: how many tasks an array may have") {
  const ScriptedSlurm commands;
  commands.say("scontrol", "echo 'MaxArraySize            = 1001'");
  CHECK(Slurm().most_tasks() == 1000);
  commands.say("scontrol", "echo 'MaxArraySize = 1'");
  CHECK(Slurm().most_tasks() == 1);
  commands.say("scontrol", "exit 1");
  CHECK(Slurm().most_tasks() == 1000);  // Slurm's default
}

TEST_CASE("slurm: without its commands the message says what to do instead") {
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  std::string said;
  try {
    static_cast<void>(Slurm());
  } catch (const ConfigError& error) {
    said = error.what();
  }
  setenv("PATH", path.c_str(), 1);
  CHECK(said ==
        "--backend slurm: sbatch is not on the path; run on a machine of the cluster (Debian's "
        "package is slurm-client), or spread the sweep by hand with --shard I/N and nearkv merge");
}

TEST_CASE("a shell reads a word as it was") {
  for (const std::string text : {"plain", "a b", "it's", "$HOME `x` \"q\" \\", "two\nlines", ""}) {
    const ChildResult child = run_program({"/bin/sh", "-c", "printf '%s' " + shell_word(text)});
    CHECK(child.diagnostics == text);
  }
}

}  // namespace nearkv
