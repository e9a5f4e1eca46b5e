"""Every threshold, one section per stage, each with its source."""

from datetime import datetime, timedelta

# raw -----------------------------------------------------------------------------------------------------------------

# Largest amount of one transaction, minor units: its square still fits a signed 64-bit integer (sqrt(2^63) = 3.037e9),
# which keeps windowed sums of squares exact. 30 million EUR, 3 billion JPY.
LARGEST_AMOUNT_MINOR = 3_000_000_000

# Card payments before 1990 or after 2099 are typing or epoch errors (own choice; no standard says).
EARLIEST_EVENT = datetime(1990, 1, 1)
LATEST_EVENT = datetime(2100, 1, 1)

# A row this far from the median time of its own file is a wrong year, not history: it would stretch the daily
# partitions over decades. Own choice; the longest retention of card data we know of is ten years.
FARTHEST_FROM_MEDIAN = timedelta(days=3653)

# Longest text of one value, characters. Own choice; ISO 8583 fields and UUIDs are far shorter.
LONGEST_TEXT = 200

# Quarantined share of the rows read that asks for a look at the source. Own choice: below 0.1 % are the odd typing
# errors of any manual process, above it a field has changed.
QUARANTINED_SHARE = 0.001

# features ------------------------------------------------------------------------------------------------------------

# Days over which a feature must vary: four whole weeks, so that rare events such as known frauds have happened.
# Own choice.
FEATURE_VARIATION_DAYS = 28

# models --------------------------------------------------------------------------------------------------------------

# A candidate below these is not promoted. Source: the quality gates of published fraud services (area under the
# precision-recall curve >= 0.15, recall >= 0.30); recall is taken at 1 % false positives so that it means something.
AVERAGE_PRECISION_FLOOR = 0.15
RECALL_FLOOR = 0.30

# Labelled test rows a promotion needs. Source: the minimum of the published retraining services compared with.
FEWEST_TEST_ROWS = 1_000

# Test frauds a promotion needs. Own choice: with 30, one fraud more or less moves recall by 3 points.
FEWEST_TEST_FRAUDS = 30

# Relative gain of average precision over the champion, on the same rows. Source: the 2 % margin of published
# retraining services (there on F1, which depends on a threshold).
PROMOTION_MARGIN = 0.02

# A gain counts as real when the one-sided p-value of the paired day-block bootstrap is at most this. Source: ICH E9
# (1998), section 5.5: a one-sided test at half the conventional 5 %, so that it agrees with the 95 % interval printed.
PROMOTION_P_VALUE = 0.025

# Tuned parameters replace those before when the one-sided p-value of their gain, corrected for the number of trials it
# is the best of, is at most this. Source: the conventional 5 %. Less strict than a promotion, because less depends on
# it: what is trained with the parameters still has to pass every gate.
TUNING_P_VALUE = 0.05

# Trials of a tuning that is not told how many. Own choice: ten that the sampler draws at random before it learns
# (Optuna's default), and twice as many that learn.
TUNING_TRIALS = 30

# Confidence of the interval printed beside a test metric. Source: convention.
INTERVAL_CONFIDENCE = 0.95

# Days an interval or a paired test needs. Own choice: n days give C(2n - 1, n) different resamples, 126 for five days
# and 35 for four, of which a tail of 2.5 % is less than one.
FEWEST_BOOTSTRAP_DAYS = 5

# Expected calibration error (the lower end of its interval) over the fraud share of the test rows. Own choice: the
# error is at least the distance of the mean probability from the fraud share, so a model that expects half as many
# frauds as there are, or half as many again, is not promoted unless chance explains it. Relative, because a portfolio
# with 0.1 % fraud and one with 5 % need different absolutes.
CALIBRATION_ERROR_PER_FRAUD_SHARE = 0.5

# Days of served traffic whose feature parity a promotion looks at. Own choice: one week of weekdays and weekend, so
# that a mismatch fixed a week ago no longer blocks.
PARITY_DAYS = 7
# Share of these days' decisions that may be without comparison: a few reach the warehouse late, or never. Own choice.
PARITY_ABSENT_SHARE = 0.05

# Average precision of one test window that is too good to be true with labels a week late: look for a leak first.
# Source: on the handbook's data an informed Bayes-like ceiling is 0.77, one week's noise 0.02 (1 sd); 0.82 is beyond
# both.
AVERAGE_PRECISION_ALARM = 0.82
# The same for the mean of several weeks, whose noise is smaller.
MEAN_AVERAGE_PRECISION_ALARM = 0.79

# Share of a window's transactions without a label, above which the labelled rows no longer stand for the window:
# chargebacks arrive before genuine payments are called genuine. Own choice.
UNLABELLED_SHARE = 0.05

# Frauds caught by the thresholds' REVIEW and BLOCK together must be more than flagging at random would catch.
# Source: definition; lift 1 is chance. Own margin.
FLAGGED_LIFT = 2.0

# The default cost matrix of the decision policy, in units of the currency; each installation has its own (FRAUD_COSTS).
# Source: the assumptions under which this project's reference model was measured on the handbook's data: a missed fraud
# costs its amount, a review 5 and catches 95 %, blocking a genuine payment 25. Fee and friction of a review depend on
# contract and customer, so they are 0 until set.
MISSED_FRAUD_SHARE = 1.0
CHARGEBACK_FEE = 0.0
REVIEW_COST = 5.0
REVIEW_CATCHES = 0.95
BLOCK_FRICTION = 25.0
REVIEW_FRICTION = 0.0
# Largest cost of one decision, units of the currency: that of the largest amount.
LARGEST_COST = LARGEST_AMOUNT_MINOR / 100

# Reviews per day as a share of the daily payments where no number is set (FRAUD_REVIEWS_PER_DAY). Source: the reference
# model above was given the next 1 % of payments below the blocked ones.
REVIEW_SHARE = 0.01

# monitoring ----------------------------------------------------------------------------------------------------------

# Evidently's own defaults for numerical columns (its documentation, "Data drift algorithm", 2025):
# distances alarm at or above the limit, a p-value alarms below it.
DRIFT_WASSERSTEIN = 0.1  # standard deviations of the reference
DRIFT_KS_P_VALUE = 0.05
DRIFT_JENSEN_SHANNON = 0.1  # square root of the divergence, base e

# Share of features that may drift before the window as a whole counts as drifted. A feature counts when both
# distances alarm: at 40 features the KS test alone alarms in 87 % of windows that have not drifted
# (measured; docs of this project: Known traps of the platforms).
DRIFT_FEATURE_SHARE = 0.3

# Current window and sample sizes of the drift comparison. Distances are compared at a fixed sample size because
# the KS p-value of a harmless 2 % inflation falls below 0.05 at 100,000 rows. The exact KS p-value costs time in the
# square of the rows: at 5,000 it was a third of the cost of a range.
DRIFT_WINDOW_DAYS = 7
DRIFT_SAMPLE_ROWS = 3_000

# Labels are waited for before a transaction is judged: 7 days, the delay of the Fraud Detection Handbook
# (Le Borgne et al. 2022, chapter 3). A source whose chargebacks take longer needs a longer delay here; labels
# that are still missing after it are counted as left out, never guessed.
LABEL_DELAY_DAYS = 7
PERFORMANCE_WINDOW_DAYS = 28

# A rate of fewer rows (or a true positive rate of fewer frauds) is not shown: at 500 genuine rows and a true
# rate of 1 % its 95 % interval is already 0.3 % to 2.3 % (Wilson 1927).
FAIRNESS_MIN_ROWS = 500
FAIRNESS_MIN_FRAUDS = 10

# Largest false positive rate of a group over the smallest of its attribute, as far as chance (95 % intervals) does not
# explain it, among readable groups. 1.25 is the inverse of the four-fifths rule (29 CFR 1607.4(D)), employment guidance
# used here as an internal screen only.
FAIRNESS_FALSE_POSITIVE_RATIO = 1.25

# Served features equal the warehouse's exactly, because both engines compute in integers (design rule 5).
PARITY_MISMATCHES = 0
# Days of served decisions the check looks at: as long as performance's window, so that a repaired fault leaves it.
PARITY_WINDOW_DAYS = 28

# A simpler model is preferred while it lacks no more than this many standard errors of the difference to the best.
# Source: Breiman, Friedman, Olshen, Stone, Classification and Regression Trees, 1984, section 3.4.3, the 1-SE rule.
STANDARD_ERRORS_OF_NOISE = 1.0

# Largest difference in log-odds between a compiled model and the libraries that fitted it: single precision over
# hundreds of trees differs by 1e-5, a wrong comparison at a threshold by a tree's whole value, 0.01 and more.
LARGEST_COMPILED_DIFFERENCE = 1e-3
